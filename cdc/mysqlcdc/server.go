package mysqlcdc

import (
	"context"
	"fmt"
	"strconv"
	"strings"

	"github.com/freshetdev/freshet/cdc"
)

// A server is what it says of itself.
type server struct {
	vars    map[string]string // global, lower case
	version string
	mariadb bool
	major   int
	minor   int
	id      string // as in positions
	folds   bool   // names of tables are compared without case
}

// describe asks a server what it is.
func describe(ctx context.Context, query func(context.Context, string) ([][]string, error)) (*server, error) {
	rows, err := query(ctx, `show global variables where variable_name in ('version', 'log_bin', 'binlog_format', 'binlog_row_image', 'binlog_row_metadata',
		'server_id', 'server_uuid', 'gtid_mode', 'read_only', 'binlog_transaction_compression', 'binlog_row_value_options', 'lower_case_table_names',
		'binlog_order_commits', 'wsrep_on', 'binlog_expire_logs_seconds', 'expire_logs_days', 'log_bin_compress', 'binlog_checksum', 'sync_binlog')`)
	if err != nil {
		return nil, fmt.Errorf("mysqlcdc: variables: %w", err)
	}
	v := &server{vars: make(map[string]string)}
	for _, r := range rows {
		v.vars[strings.ToLower(r[0])] = r[1]
	}
	v.version = v.vars["version"]
	v.mariadb = strings.Contains(strings.ToLower(v.version), "mariadb")
	v.folds = v.vars["lower_case_table_names"] != "0"
	parts := strings.SplitN(strings.TrimPrefix(v.version, "5.5.5-"), ".", 3)
	if len(parts) < 2 {
		return nil, fmt.Errorf("mysqlcdc: the server's version is %.40q; want one like 10.11.6-MariaDB or 8.0.40", v.version)
	}
	v.major, _ = strconv.Atoi(parts[0])
	v.minor, _ = strconv.Atoi(parts[1])
	if v.mariadb {
		v.id = serverMariaDB + v.vars["server_id"]
	} else {
		v.id = serverMySQL + strings.ToLower(v.vars["server_uuid"])
	}
	return v, nil
}

// atLeast compares the version with one of MariaDB or one of MySQL.
func (v *server) atLeast(major, minor int) bool {
	return v.major > major || v.major == major && v.minor >= minor
}

// names reports whether columns come with their names.
func (v *server) names() bool { return strings.EqualFold(v.vars["binlog_row_metadata"], "FULL") }

// endStatement shows where the binary log ends.
func (v *server) endStatement() string {
	if !v.mariadb && v.atLeast(8, 4) {
		return "show binary log status"
	}
	return "show master status"
}

// shortcomings are what is wrong with the settings.
func (v *server) shortcomings() (problems []cdc.SourceProblem) {
	add := func(text, fix string, warning bool) {
		problems = append(problems, cdc.SourceProblem{Text: text, Fix: fix, Warning: warning})
	}
	is := func(name, value string) bool { return strings.EqualFold(v.vars[name], value) }
	switch {
	case v.mariadb && !v.atLeast(10, 6):
		add("MariaDB is "+v.version+"; want 10.6 or later", "", false)
	case !v.mariadb && !v.atLeast(8, 0):
		add("MySQL is "+v.version+"; want 8.0 or later", "", false)
	}
	if !is("log_bin", "ON") {
		add("there is no binary log (log_bin)", "log_bin = binlog and server_id = 1 in the section [mysqld] of the server's configuration, and restart it", false)
		return problems
	}
	if is("server_id", "0") {
		add("server_id is 0: no replica may read the binary log", "SET GLOBAL server_id = 1;", false)
	}
	if !is("binlog_format", "ROW") && v.vars["binlog_format"] != "" {
		add("binlog_format is "+v.vars["binlog_format"]+"; want ROW: statements don't say which rows they change",
			"SET GLOBAL binlog_format = 'ROW'; and the same in the server's configuration; sessions that are open keep theirs", false)
	}
	if !v.mariadb && !is("gtid_mode", "ON") {
		add("gtid_mode is "+v.vars["gtid_mode"]+"; want ON: without GTIDs MySQL doesn't tell when a commit is visible",
			"SET GLOBAL enforce_gtid_consistency = ON; SET GLOBAL gtid_mode = OFF_PERMISSIVE; SET GLOBAL gtid_mode = ON_PERMISSIVE; "+
				"wait until the status variable Ongoing_anonymous_transaction_count is 0; SET GLOBAL gtid_mode = ON; and the same in the server's configuration", false)
	}
	if is("binlog_transaction_compression", "ON") {
		add("binlog_transaction_compression is ON: transactions would have to be held in memory", "SET GLOBAL binlog_transaction_compression = OFF;", false)
	}
	if is("wsrep_on", "ON") {
		add("the server is a node of a Galera cluster: commits of other nodes can't be waited for", "", false)
	}
	// ON, or in later versions of MariaDB READ_ONLY and more.
	if ro := v.vars["read_only"]; ro != "" && !is("read_only", "OFF") && !is("read_only", "0") {
		add("read_only is "+ro+": the server is a replica; want the primary", "", false)
	}
	if !v.names() {
		add("binlog_row_metadata is "+v.vars["binlog_row_metadata"]+": after a start, and after DDL, changes drop coarsely until names of columns are proven",
			"SET GLOBAL binlog_row_metadata = 'FULL'; and the same in the server's configuration", true)
	}
	if img := strings.ToUpper(v.vars["binlog_row_image"]); img == "MINIMAL" || img == "NOBLOB" {
		add("binlog_row_image is "+img+": old values of columns that aren't in it are unknown, so rules that ask for them drop coarsely",
			"SET GLOBAL binlog_row_image = 'FULL'; and the same in the server's configuration", true)
	}
	if opts := v.vars["binlog_row_value_options"]; opts != "" {
		add("binlog_row_value_options is "+opts+": JSON that was changed in part is unknown", "SET GLOBAL binlog_row_value_options = '';", true)
	}
	return problems
}

// A status is what SHOW MASTER STATUS says.
type status struct {
	spot
	do, ignore string // databases that are in the log, or not
}

// end asks where the binary log ends.
func (v *server) end(ctx context.Context, d *side) (st status, err error) {
	r, err := d.row(ctx, 4, v.endStatement())
	if err != nil {
		return st, fmt.Errorf("mysqlcdc: end of the binary log: %w", err)
	}
	off, err := strconv.ParseUint(r[1], 10, 64)
	if err != nil || !validFile(r[0]) {
		return st, fmt.Errorf("mysqlcdc: end of the binary log: the server says %q; want a file and an offset", r)
	}
	return status{spot{r[0], off}, r[2], r[3]}, nil
}

// filtered is what is wrong with the filters of the binary log.
func (st status) filtered() []cdc.SourceProblem {
	if st.do == "" && st.ignore == "" {
		return nil
	}
	return []cdc.SourceProblem{{
		Text: fmt.Sprintf("the binary log leaves databases out (binlog_do_db is %q, binlog_ignore_db is %q), so their changes would be missed", st.do, st.ignore),
		Fix:  "take binlog_do_db and binlog_ignore_db out of the server's configuration, and restart it",
	}}
}
