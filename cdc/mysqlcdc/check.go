package mysqlcdc

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/freshetdev/freshet/cdc"
)

// Check looks at everything that a stream needs, and at what may hurt later, and returns what is wrong with the statement that
// mends it. It changes nothing. An error means that it couldn't look.
func (s *Source) Check(ctx context.Context) (problems []cdc.SourceProblem, err error) {
	d := newSide(s)
	defer d.close()
	v, err := describe(ctx, d.query)
	if err != nil {
		return nil, err
	}
	problems = v.shortcomings()
	me, err := d.row(ctx, 1, `select current_user()`)
	if err != nil {
		return nil, fmt.Errorf("mysqlcdc: check: %w", err)
	}
	user, host, _ := cutLast(me[0], "@")
	account := str(user) + "@" + str(host)
	lacks := func(privilege, why string) {
		problems = append(problems, cdc.SourceProblem{Text: me[0] + " lacks the privilege " + privilege + why, Fix: "GRANT " + privilege + " ON *.* TO " + account + ";"})
	}
	st, err := v.end(ctx, d)
	switch {
	case code(err) == erDenied:
		if v.mariadb {
			lacks("BINLOG MONITOR", ", which tells where the binary log ends")
		} else {
			lacks("REPLICATION CLIENT", ", which tells where the binary log ends")
		}
		// The offset of the first event is one that every file has.
		st.off = 4
	case err != nil && !strings.EqualFold(v.vars["log_bin"], "ON"):
		return problems, nil
	case err != nil:
		return nil, err
	default:
		problems = append(problems, st.filtered()...)
	}
	denied, err := s.mayRead(ctx, v, st.spot)
	if err != nil {
		return nil, err
	}
	if denied {
		lacks("REPLICATION SLAVE", ", with which the binary log is read")
	}
	names, err := tableNames(ctx, d, s.opts.Match)
	if err != nil {
		return nil, err
	}
	for _, n := range names {
		wrong, err := n.hindrances(ctx, d)
		if err != nil {
			return nil, err
		}
		problems = append(problems, wrong...)
	}
	keys, err := readForeignKeys(ctx, d)
	if err != nil {
		return nil, err
	}
	var told []string
	for _, k := range keys {
		if k.unseen && s.opts.Match(k.child.schema, k.child.name) && !slices.Contains(told, k.child.schema) {
			told = append(told, k.child.schema)
			problems = append(problems, cdc.SourceProblem{
				Text: fmt.Sprintf("%s may not see what foreign keys of database %s do, such as one of table %s: each is taken for one with ON DELETE and ON UPDATE CASCADE, so more is dropped than need be", me[0], k.child.schema, k.child.name),
				Fix:  "GRANT REFERENCES ON " + quote(k.child.schema) + ".* TO " + account + ";", Warning: true,
			})
		}
	}
	if len(names) == 0 {
		problems = append(problems, cdc.SourceProblem{
			Text: me[0] + " sees no table that is wanted: there is none, or it has no right on them, so that foreign keys and, without binlog_row_metadata=FULL, names of columns can't be read",
			Fix:  "GRANT SELECT ON `database`.* TO " + account + ";", Warning: true,
		})
	}
	return problems, nil
}

func cutLast(s, sep string) (before, after string, ok bool) {
	if i := strings.LastIndex(s, sep); i >= 0 {
		return s[:i], s[i+len(sep):], true
	}
	return s, "", false
}

// mayRead tries to read the binary log. No privilege is asked for by name, since roles hide them.
func (s *Source) mayRead(ctx context.Context, v *server, at spot) (denied bool, err error) {
	f, err := s.openFeed(ctx, v, at, true)
	if err != nil {
		return false, err
	}
	defer func() { _ = f.close() }()
	for range 16 {
		_, err := f.packet(ctx)
		switch c := code(err); {
		case errors.Is(err, errEndOfLog):
			return false, nil
		case c == erDenied || c == erAccess:
			return true, nil
		case c == erFatalRead: // it may read, there is nothing at that place
			return false, nil
		case err != nil:
			return false, err
		}
	}
	return false, nil
}
