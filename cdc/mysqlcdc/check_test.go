package mysqlcdc

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/freshetdev/freshet/cdc"
	"github.com/freshetdev/freshet/internal/testenv"
)

func hasProblem(t *testing.T, problems []cdc.SourceProblem, text string) {
	t.Helper()
	if !slices.ContainsFunc(problems, func(p cdc.SourceProblem) bool { return strings.Contains(p.String(), text) }) {
		t.Errorf("no problem has %q; there are %q", text, problems)
	}
}

func check(t *testing.T, s *Source) []cdc.SourceProblem {
	t.Helper()
	problems, err := s.Check(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return problems
}

// TestCheck runs the statements that Check prints, until it has none.
func TestCheck(t *testing.T) {
	my := testenv.MariaDB(t, "binlog-format=MIXED", "binlog-row-image=MINIMAL")
	d := database(t, my)
	d.sql("create table t (id int primary key) engine=myisam; create view w as select 1 as x; create user app@'%' identified by 'secret'")
	s := d.source()
	s.user, s.password = "app", "secret"
	problems := check(t, s)
	for _, want := range []string{
		"binlog_format is MIXED; want ROW: statements don't say which rows they change; SET GLOBAL binlog_format = 'ROW';",
		"SET GLOBAL binlog_row_metadata = 'FULL';", "SET GLOBAL binlog_row_image = 'FULL';",
		"app@% lacks the privilege BINLOG MONITOR, which tells where the binary log ends; GRANT BINLOG MONITOR ON *.* TO 'app'@'%';",
		"GRANT REPLICATION SLAVE ON *.* TO 'app'@'%';", "GRANT SELECT ON `database`.* TO 'app'@'%';",
	} {
		hasProblem(t, problems, want)
	}
	if _, err := d.tryOpen(s, ""); err == nil || !strings.Contains(err.Error(), "SET GLOBAL binlog_format = 'ROW';") {
		t.Errorf("open: %v; want what is wrong", err)
	}
	for _, p := range problems {
		if sql, _, ok := strings.Cut(p.Fix, ";"); ok && p.Table == "" {
			d.sql(strings.ReplaceAll(sql, "`database`", d.name))
		}
	}
	problems = check(t, s)
	hasProblem(t, problems, d.name+".t: is of engine MyISAM")
	hasProblem(t, problems, "ALTER TABLE `"+d.name+"`.`t` ENGINE = InnoDB;")
	hasProblem(t, problems, d.name+".w: is a view")
	if tables, err := s.Tables(t.Context(), s.opts.Match); err == nil || !strings.Contains(err.Error(), d.name+".w: is a view") || len(tables) != 1 || tables[0].Name != "t" {
		t.Errorf("tables: %v, %v; want the one that can be followed, and what is wrong with the other", tables, err)
	}
	d.sql("drop view w; alter table t engine = innodb")
	if problems = check(t, s); len(problems) > 0 {
		t.Errorf("after all statements there is still %q", problems)
	}
	// With those rights and no more.
	r := d.open(s, "")
	d.reconnect() // sessions keep their format
	same(t, "by hand", r.After("insert into t values (1)"), "[", "insert t (id=1)", "]")
	if err := r.Visible(t.Context(), r.Start()); err != nil {
		t.Errorf("visible: %v", err)
	}
	d.sql("set global read_only = 1")
	hasProblem(t, check(t, s), "want the primary")
	if _, err := d.tryOpen(s, ""); err == nil {
		t.Error("a server that is read-only is followed")
	}
	d.sql("set global read_only = 0, global binlog_row_image = NOBLOB")
	d.sql("create table b (id int primary key, v int, c text not null)")
	tables, err := s.Tables(t.Context(), func(_, name string) bool { return name == "b" })
	if err != nil || len(tables) != 1 {
		t.Fatal(tables, err)
	}
	for i, want := range []struct{ noOld, omitted, nullable bool }{{false, false, false}, {false, false, true}, {true, true, false}} {
		if c := tables[0].Columns[i]; c.NoOld != want.noOld || c.Omitted != want.omitted || c.Nullable != want.nullable {
			t.Errorf("column %+v; want %+v", c, want)
		}
	}
}

// With SELECT alone, MariaDB doesn't show what foreign keys do. Each is taken to change its table: what one does isn't in the binary log, so nothing
// else would ever tell.
func TestForeignKeysUnseen(t *testing.T) {
	my := mariadb(t)
	d := database(t, my)
	d.sql("create table p (id int primary key, v int); create table c (id int primary key, p_id int, foreign key (p_id) references p (id) on delete set null);" +
		"create table r (id int primary key, p_id int, foreign key (p_id) references p (id)); insert into p values (1, 0), (2, 0), (3, 0); insert into c values (1, 1), (3, 3);" +
		"create user app@'127.0.0.1' identified by 'secret'; grant replication slave, binlog monitor on *.* to app@'127.0.0.1'; grant select on " + d.name + ".* to app@'127.0.0.1'")
	s := d.source()
	s.user, s.password = "app", "secret"
	problems := check(t, s)
	hasProblem(t, problems, "app@127.0.0.1 may not see what foreign keys of database "+d.name+" do, such as one of table c")
	r := d.open(s, "")
	same(t, "unseen", r.After("delete from p where id = 1"), "[", "truncate c", "truncate r", "delete p (id=1 v=0)", "]")
	same(t, "a column that none refers to", r.After("update p set v = 1 where id = 2"), "[", "update p (id=2 v=0) (id=2 v=1)", "]")
	r.Close()
	if len(problems) != 1 {
		t.Fatalf("problems are %q; want one", problems)
	}
	d.sql(problems[0].Fix)
	if problems = check(t, s); len(problems) > 0 {
		t.Errorf("after the statement there is still %q", problems)
	}
	r = d.open(s, "")
	same(t, "seen", r.After("delete from p where id = 3"), "[", "truncate c", "delete p (id=3 v=0)", "]")
}

func TestCheckFilters(t *testing.T) {
	my := mariadb(t, "binlog-ignore-db=secret")
	d := database(t, my)
	hasProblem(t, check(t, d.source()), `binlog_ignore_db is "secret"`)
	if _, err := d.tryOpen(d.source(), ""); err == nil || !strings.Contains(err.Error(), "would be missed") {
		t.Errorf("open: %v", err)
	}
}

func TestCheckNoLog(t *testing.T) {
	my := testenv.MariaDB(t, "skip-log-bin")
	d := database(t, my)
	hasProblem(t, check(t, d.source()), "there is no binary log")
	if _, err := d.tryOpen(d.source(), ""); err == nil || !strings.Contains(err.Error(), "there is no binary log") {
		t.Errorf("open: %v", err)
	}
}

func TestOptions(t *testing.T) {
	all := func(string, string) bool { return true }
	f := func(url string, o Options, want string) {
		t.Helper()
		_, err := New(url, o)
		if err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "secret") {
			t.Errorf("%s: %v; want %q", url, err, want)
		}
	}
	f("postgres://app:secret@h/", Options{Match: all}, `scheme is "postgres"; want mysql or mariadb`)
	f("mysql://app:secret@h:port/", Options{Match: all}, "invalid port")
	f("mysql://app:sec/secret@h/", Options{Match: all}, "what stands before the @ can't be read")
	f("mysql://app:secret", Options{Match: all}, "it can't be read")
	f("mysql:app:secret@h", Options{Match: all}, "has no host")
	f("mysql://app@h/?password=secret", Options{Match: all}, "option password; want")
	f("mysql://app:secret@h/?tls=maybe", Options{Match: all}, "option tls=maybe")
	f("mysql://app:secret@h/?socket=/x", Options{Match: all}, "option socket=/x")
	f("mysql://app:secret@/", Options{Match: all}, "has no host")
	f("mysql://h/", Options{Match: all}, "has no user")
	f("mysql://app:secret@h/", Options{}, "Match is nil")
	f("mysql://app:secret@h/", Options{Match: all, Timeout: time.Second}, "Timeout is 1s; want at least 2s")
	s, err := New("mysql://app@/?socket=/run/my.sock&tls=false", Options{Match: all})
	if err != nil || s.addr != "/run/my.sock" {
		t.Errorf("socket: %v", err)
	}
	if s, err = New("mysql://app@[::1]/?tls=true", Options{Match: all}); err != nil || s.addr != "[::1]:3306" || s.tls.ServerName != "::1" {
		t.Errorf("%+v, %v", s, err)
	}
}
