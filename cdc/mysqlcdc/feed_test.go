package mysqlcdc

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/freshetdev/freshet/cdc"
	"github.com/freshetdev/freshet/internal/feedtest"
)

// TestChanges is what each kind of statement gives.
func TestChanges(t *testing.T) {
	my := mariadb(t)
	d := database(t, my)
	d.sql("create table t (id int primary key, v varchar(20)); create table other (id int primary key) engine=myisam")
	r := d.open(d.source(), "")
	f := func(statements string, want ...string) {
		t.Helper()
		same(t, statements, r.After(statements), want...)
	}
	f("insert into t values (1, 'a'), (2, null)", "[", "insert t (id=1 v=a)", "insert t (id=2 v=~)", "]")
	f("update t set v = 'b' where id = 1", "[", "update t (id=1 v=a) (id=1 v=b)", "]")
	f("update t set id = 7 where id = 1", "[", "update t (id=1 v=b) (id=7 v=b)", "]")
	f("replace into t values (7, 'c')", "[", "update t (id=7 v=b) (id=7 v=c)", "]")
	f("delete from t where id = 2", "[", "delete t (id=2 v=~)", "]")
	f("begin; insert into t values (3, 'x'); rollback")
	f("begin; insert into t values (3, 'x'); savepoint s; insert into t values (4, 'y'); rollback to s; commit", "[", "insert t (id=3 v=x)", "]")
	f("insert into other values (1)", "[", "insert other (id=1)", "]")
	// A table without transactions keeps what it got.
	f("begin; insert into t values (9, 'x'); insert into other values (2); rollback", "[", "insert other (id=2)", "]")
	f("truncate t", "[", "truncate t", "]")
	f("create temporary table tmp (id int); insert into tmp values (1); drop temporary table tmp")
	f("create view w as select * from t; drop view w; analyze table t; flush tables; create user u@h; grant select on *.* to u@h; drop user u@h")
	f("set sql_log_bin = 0; insert into t values (100, ''); set sql_log_bin = 1")
	my.SQL(t, "create table test.t (id int primary key); insert into test.t values (1); drop table test.t")
	f("")
}

// TestSchemas alters tables in the middle, in one go: what comes after each statement is read by what the table was then.
func TestSchemas(t *testing.T) {
	my := mariadb(t)
	for _, metadata := range []string{"FULL", "MINIMAL"} {
		t.Run(metadata, func(t *testing.T) {
			my.SQL(t, "set global binlog_row_metadata = "+metadata)
			d := database(t, my)
			d.sql("create table t (id int primary key, a int, b int)")
			r := d.open(d.source(), "")
			from := r.Pos
			same(t, "names that were there before the stream", r.After("insert into t values (1, 2, 3)"), "[", "insert t (id=1 a=2 b=3)", "]")
			statements := []string{
				"alter table t rename column a to c", "insert into t values (2, 3, 4)",
				"alter table t rename column c to b, rename column b to c", "insert into t values (3, 4, 5)",
				"alter table t add column d int first", "insert into t values (1, 4, 5, 6)",
				"rename table t to u", "update u set d = 2 where id = 4",
				"create table t (z int primary key)", "insert into t values (1)",
				"drop table u", "create or replace table t (y int primary key)", "insert into t values (1)",
			}
			for _, s := range statements {
				d.sql(s)
			}
			full := []string{
				"[", "schema t", "]", "[", "insert t (id=2 c=3 b=4)", "]",
				"[", "schema t", "]", "[", "insert t (id=3 b=4 c=5)", "]",
				"[", "schema t", "]", "[", "insert t (d=1 id=4 b=5 c=6)", "]",
				"[", "schema t", "schema u", "]", "[", "update u (d=1 id=4 b=5 c=6) (d=2 id=4 b=5 c=6)", "]",
				"[", "schema t", "]", "[", "insert t (z=1)", "]",
				"[", "schema u", "]", "[", "schema t", "]", "[", "insert t (y=1)", "]",
			}
			// Without names in the log, those of now say nothing of then.
			bare := strings.NewReplacer(" (id=2 c=3 b=4)", " ()", " (id=3 b=4 c=5)", " ()", " (d=1 id=4 b=5 c=6)", " ()", " (d=2 id=4 b=5 c=6)", " ()", " (z=1)", " ()", " (y=1)", " ()")
			want := full
			if metadata == "MINIMAL" {
				want = nil
				for _, l := range full {
					want = append(want, bare.Replace(l))
				}
			}
			same(t, "DDL", r.After(""), want...)
			same(t, "after it", r.After("insert into t values (2)"), "[", "insert t (y=2)", "]")
			r.Close()
			again := d.open(d.source(), from)
			got := again.After("")
			same(t, "once more", got[6:len(got)-3], want[3:]...)
			same(t, "after that", again.After("insert into t values (3)"), "[", "insert t (y=3)", "]")
		})
	}
}

// TestSlowReader reads rows that are older than what the catalog says of their table.
func TestSlowReader(t *testing.T) {
	my := mariadb(t, "binlog-row-metadata=MINIMAL")
	d := database(t, my)
	d.sql("create table first (id int primary key)")
	r := d.open(d.source(), "")
	d.sql("create table t (a int, b int); insert into t values (1, 2); alter table t rename column a to x, rename column b to a; alter table t rename column x to b")
	same(t, "rows of before", r.After(""), "[", "schema t", "]", "[", "insert t ()", "]", "[", "schema t", "]", "[", "schema t", "]")
	same(t, "rows of now", r.After("insert into t values (3, 4)"), "[", "insert t ()", "]")
	same(t, "rows of now", r.After("insert into t values (3, 4)"), "[", "insert t (b=3 a=4)", "]")
	if got := r.Stream.(*stream).src.Stats().Unnamed; got != 2 {
		t.Errorf("%d events without names; want 2", got)
	}
}

// TestTypes compares each value with what the server prints.
func TestTypes(t *testing.T) {
	my := mariadb(t)
	for _, metadata := range []string{"FULL", "MINIMAL"} {
		t.Run(metadata, func(t *testing.T) {
			my.SQL(t, "set global binlog_row_metadata = "+metadata)
			d := database(t, my)
			d.sql("set time_zone = '+05:00', sql_mode = ''")
			types := []struct {
				typ, show string // show prints the column c; empty: as it is
				values    []string
			}{
				{"tinyint", "", []string{"-128", "127", "null"}},
				{"tinyint unsigned", "", []string{"0", "255"}},
				{"smallint unsigned", "", []string{"65535"}},
				{"mediumint", "", []string{"-8388608", "8388607"}},
				{"mediumint unsigned", "", []string{"16777215", "8388608"}},
				{"int", "", []string{"-2147483648"}},
				{"int unsigned", "", []string{"4294967295"}},
				{"bigint", "", []string{"-9223372036854775808"}},
				{"bigint unsigned", "", []string{"18446744073709551615", "1"}},
				{"boolean", "", []string{"true", "false"}},
				{"decimal(20,6)", "", []string{"-1.5", "0", "12345678901234.000001", "-0.000001"}},
				{"decimal(10,0)", "", []string{"-7"}},
				{"decimal(65,30)", "", []string{"12345678901234567890123456789012345.123456789012345678901234567890"}},
				{"float", "", []string{"0.5", "-1.25", "0"}},
				{"double", "", []string{"0.1", "-1e20", "1e-20", "123456789.125", "1e15", "999999999999999"}},
				{"bit(1)", "c+0", []string{"b'1'", "b'0'"}},
				{"bit(40)", "c+0", []string{"b'1000000000000000000000000000000000000001'"}},
				{"year", "", []string{"2026", "0"}},
				{"date", "", []string{"'2026-01-02'", "'0000-00-00'", "'2026-00-00'"}},
				{"time", "", []string{"'-838:59:59'", "'00:00:00'", "'01:02:03'"}},
				{"time(6)", "", []string{"'-01:02:03.000004'", "'00:00:00'", "'10:00:00'"}},
				{"time(2)", "", []string{"'-00:00:00.01'", "'00:00:00.5'", "'10:00:00'"}},
				{"datetime", "", []string{"'2026-01-02 03:04:05'", "'0000-00-00'", "'9999-12-31 23:59:59'"}},
				{"datetime(6)", "", []string{"'2026-01-02 03:04:05.6'", "'2026-01-02 03:04:05'", "'0000-00-00'"}},
				{"datetime(3)", "", []string{"'1000-01-01 00:00:00.123'"}},
				{"timestamp null", "convert_tz(c, @@time_zone, '+00:00')", []string{"'2026-01-02 03:04:05'", "'1970-01-02 00:00:00'"}},
				{"timestamp(6) null", "convert_tz(c, @@time_zone, '+00:00')", []string{"'2026-01-02 03:04:05.000006'", "'2026-07-02 03:04:05'"}},
				{"enum('a','b,c','it''s','ß')", "", []string{"'a'", "'b,c'", "'it''s'", "'ß'", "''"}},
				{"enum('x','é') character set latin1", "", []string{"'é'"}},
				{"set('a','b','ü')", "", []string{"'a,ü'", "''", "'b'"}},
				{"char(10)", "", []string{"'a  '", "''", "'日本'"}},
				{"varchar(20)", "", []string{"'a  '", "'😀'"}},
				{"varchar(300)", "", []string{"'" + strings.Repeat("x", 300) + "'"}},
				{"varchar(20) character set latin1", "", []string{"'é€ß'", "'plain'"}},
				{"varchar(20) character set utf16", "", []string{"'é😀'"}},
				{"varchar(20) character set utf32", "", []string{"'é😀'"}},
				{"varchar(20) character set ucs2", "", []string{"'é'"}},
				{"varchar(20) character set sjis", "", []string{"'plain'"}},
				{"char(10) character set utf8mb3", "", []string{"'é'"}},
				{"text", "", []string{"'a'", "''"}},
				{"longtext character set latin1", "", []string{"'ÿ'"}},
				{"json", "", []string{`'{"a": [1, 2.50]}'`}},
				{"binary(4)", "lower(hex(c))", []string{"'ab'", "x'00ff0000'"}},
				{"binary(16)", "lower(hex(c))", []string{"x'00112233445566778899aabbccddee00'"}},
				{"binary(5)", "lower(hex(c))", []string{"''"}},
				{"varbinary(20)", "lower(hex(c))", []string{"x'00ff00'", "''"}},
				{"blob", "lower(hex(c))", []string{"x'dead00'"}},
				{"uuid", "", uuids()},
				{"inet6", "", []string{"'::1'", "'2001:db8::ff00:42:8329'", "'1:0:0:2::'", "'::'"}},
				{"inet4", "", []string{"'1.2.3.4'", "'10.0.0.0'"}},
				{"int as (id + 1) virtual", "", []string{"default"}},
				{"int as (id + 1) stored", "", []string{"default"}},
				{"int invisible default 3", "", []string{"default", "7"}},
			}
			for i, typ := range types {
				d.sql(fmt.Sprintf("create table t%d (id int primary key, c %s)", i, typ.typ))
			}
			r := d.open(d.source(), "")
			for i, typ := range types {
				show := typ.show
				if show == "" {
					show = "c"
				}
				for n, v := range typ.values {
					got := r.After(fmt.Sprintf("insert into t%d (id, c) values (%d, %s)", i, n, v))
					want := d.sql(fmt.Sprintf("select ifnull(%s, '~') from t%d where id = %d", show, i, n))
					if len(want) > 60 {
						want = fmt.Sprintf("<%d>", len(want))
					}
					same(t, typ.typ+" of "+v, got, "[", fmt.Sprintf("insert t%d (id=%d c=%s)", i, n, want), "]")
				}
			}
			// What isn't known how to read is not known.
			d.sql("create table odd (id int primary key, c varchar(20) character set sjis); create table packed (id int primary key, c varchar(20) compressed)")
			r.After("insert into odd values (0, 'a'); insert into odd values (7, 'a')")
			same(t, "letters of sjis", r.After("insert into odd values (1, '日')"), "[", "insert odd (id=1 c=?)", "]")
			same(t, "a compressed column", r.After("insert into packed values (1, 'a')"), "[", "truncate packed", "]")
		})
	}
}

// uuids are some of every version and variant, since MariaDB keeps them in different ways.
func uuids() (all []string) {
	rnd := rand.New(rand.NewPCG(1, 2))
	for version := range 16 {
		for _, variant := range []byte{0, 0x40, 0x80, 0xb0, 0xc0, 0xf0} {
			if version >= 8 && variant < 0x80 {
				continue // refused by MariaDB
			}
			var b [16]byte
			for i := range b {
				b[i] = byte(rnd.Uint32())
			}
			b[6], b[8] = byte(version)<<4|b[6]&0xf, variant|b[8]&0xf
			all = append(all, fmt.Sprintf("'%x-%x-%x-%x-%x'", b[:4], b[4:6], b[6:8], b[8:10], b[10:]))
		}
	}
	return append(all, "'00000000-0000-0000-0000-000000000000'", "'ffffffff-ffff-ffff-ffff-ffffffffffff'")
}

// TestImages is what rows say with each image, in a table with a key and in one without.
func TestImages(t *testing.T) {
	my := mariadb(t)
	d := database(t, my)
	d.sql("create table t (id int primary key, v int default 5, big text); create table n (v int, w int)")
	r := d.open(d.source(), "")
	f := func(image, statements string, want ...string) {
		t.Helper()
		same(t, image+": "+statements, r.After("set binlog_row_image = "+image+"; "+statements), append(append([]string{"["}, want...), "]")...)
	}
	f("FULL", "insert into t (id) values (1)", "insert t (id=1 v=5 big=~)")
	f("MINIMAL", "insert into t (id) values (2)", "insert t (id=2 v=? big=?)")
	f("MINIMAL", "update t set v = 6 where id = 1", "update t (id=1 v=? big=?) (id=1 v=6 big==)")
	f("MINIMAL", "update t set id = 3 where id = 1", "update t (id=1 v=? big=?) (id=3 v== big==)")
	f("MINIMAL", "delete from t where id = 3", "delete t (id=3 v=? big=?)")
	f("NOBLOB", "update t set v = 7 where id = 2", "update t (id=2 v=5 big=?) (id=2 v=7 big==)")
	f("NOBLOB", "update t set big = 'x' where id = 2", "update t (id=2 v=7 big=?) (id=2 v=7 big=x)")
	f("MINIMAL", "insert into n values (1, 2); ", "insert n (v=1 w=2)")
	f("MINIMAL", "update n set w = 3", "update n (v=1 w=2) (v=1 w=3)")
}

// TestForeignKeys are changes that a foreign key makes, which aren't in the log.
func TestForeignKeys(t *testing.T) {
	my := mariadb(t)
	for _, metadata := range []string{"FULL", "MINIMAL"} {
		t.Run(metadata, func(t *testing.T) {
			my.SQL(t, "set global binlog_row_metadata = "+metadata)
			d := database(t, my)
			d.sql(`create table p (id int primary key, v int);
				create table c (id int primary key, p int, foreign key (p) references p (id) on delete cascade on update cascade);
				create table g (id int primary key, c int, foreign key (c) references c (id) on delete set null);
				create table no (id int primary key, p int, foreign key (p) references p (id));
				insert into p values (1, 1), (2, 1); insert into c values (1, 1), (2, 2); insert into g values (1, 1)`)
			r := d.open(d.source(func(o *Options) { // p isn't wanted
				o.Match = func(schema, name string) bool { return schema == d.name && name != "p" }
			}), "")
			f := func(statements string, want ...string) {
				t.Helper()
				same(t, statements, r.After(statements), want...)
			}
			f("update p set v = 2")
			f("update p set id = 3 where id = 1", "[", "truncate c", "truncate g", "]")
			f("delete from p where id = 3", "[", "truncate c", "truncate g", "]")
			f("delete from c where id = 2", "[", "truncate g", "delete c (id=2 p=2)", "]")
			f("alter table no drop foreign key no_ibfk_1; alter table no add foreign key (p) references p (id) on delete cascade",
				"[", "schema no", "]", "[", "schema no", "]")
			f("delete from p", "[", "truncate c", "truncate g", "truncate no", "]")
		})
	}
}

// TestXA is transactions that are prepared first.
func TestXA(t *testing.T) {
	my := mariadb(t)
	d := database(t, my)
	d.sql("create table t (id int primary key); create table u (id int primary key)")
	r := d.open(d.source(), "")
	f := func(statements string, want ...string) {
		t.Helper()
		same(t, statements, r.After(statements), want...)
	}
	f("xa start 'a', 'b', 7; insert into t values (1); insert into u values (1); xa end 'a', 'b', 7; xa prepare 'a', 'b', 7")
	prepared := r.Pos
	f("xa commit 'a', 'b', 7", "[", "truncate t", "truncate u", "]")
	f("xa start 'c'; insert into t values (2); xa end 'c'; xa prepare 'c'; xa rollback 'c'")
	f("xa start 'd'; insert into t values (3); xa end 'd'; xa commit 'd' one phase", "[", "insert t (id=3)", "]")
	if _, err := d.open(d.source(), prepared).Read(); !errors.Is(err, cdc.ErrGap) {
		t.Errorf("the commit of what was prepared before the stream began: %v; want ErrGap", err)
	}
}

// TestMessages are drops that a program writes into its transaction.
func TestMessages(t *testing.T) {
	my := mariadb(t)
	for _, metadata := range []string{"FULL", "MINIMAL"} {
		t.Run(metadata, func(t *testing.T) {
			my.SQL(t, "set global binlog_row_metadata = "+metadata)
			d := database(t, my)
			d.sql("create table t (id int primary key); create table freshet_messages (id bigint auto_increment primary key, message text not null)")
			r := d.open(d.source(), "")
			f := func(statements string, want ...string) {
				t.Helper()
				same(t, statements, r.After(statements), want...)
			}
			f(`begin; insert into t values (1); insert into freshet_messages (message) values ('{"tags":["users:7"]}'), ('x'); commit`,
				"[", "insert t (id=1)", `message {"tags":["users:7"]}`, "message x", "]")
			f(`begin; insert into freshet_messages (message) values ('{"tags":["users:7"]}'); rollback`)
			f(`delete from freshet_messages; update freshet_messages set message = 'y'`)
			f("alter table freshet_messages rename column message to text", "[", "schema freshet_messages", "]")
			r.After("insert into freshet_messages (text) values ('{}')")
			f("insert into freshet_messages (text) values ('{}')", "[", "message ", "]")
		})
	}
}

// TestStatements is what can't be told from the log: it is a gap, and what comes after is read.
func TestStatements(t *testing.T) {
	my := mariadb(t)
	d := database(t, my)
	d.sql("create table t (id int primary key, v int)")
	for _, statements := range []string{
		"set binlog_format = statement; insert into t values (1, 1)",
		"set binlog_format = statement; update t set v = 2",
		"set binlog_format = mixed; delete from t",
		"create database " + d.name + "_more; drop database " + d.name + "_more",
	} {
		s := d.source()
		r := d.open(s, "")
		d.sql(statements)
		_, err := r.Read()
		isGap(t, statements, err, "from which changes can't be told")
		d.sql("set binlog_format = row")
		r.Close()
		r = d.open(s, "")
		r.After("delete from t")
		same(t, "after "+statements, r.After("insert into t values (1, 1)"), "[", "insert t (id=1 v=1)", "]")
	}
}

// TestBetween drops the read at every point of a transaction, and begins again.
func TestBetween(t *testing.T) {
	my := mariadb(t)
	d := database(t, my)
	d.sql("create table t (id int primary key)")
	s := d.source()
	r := d.open(s, "")
	d.sql("insert into t values (1), (2); insert into t values (3); flush binary logs; insert into t values (4); create table u (id int); flush binary logs; flush binary logs; insert into t values (5)")
	want := []string{"insert t (id=1)", "insert t (id=2)", "insert t (id=3)", "insert t (id=4)", "schema u", "insert t (id=5)"}
	r.Close()
	for stop := range 2*5 + len(want) {
		r := d.open(s, r.Start())
		at, part := r.Start(), []string{}
		got := []string{}
		var ev cdc.Event
		for range stop {
			if err := r.Next(t.Context(), &ev); err != nil {
				t.Fatal(err)
			}
			switch ev.Kind {
			case cdc.Begin:
				part = part[:0]
			case cdc.Changed:
				part = append(part, feedtest.Line(d.name, &ev.Change))
			case cdc.Commit:
				got, at = append(got, part...), ev.Tx.Pos
			}
		}
		r.Close()
		r = d.open(s, at)
		for _, l := range r.After("") {
			if l != "[" && l != "]" {
				got = append(got, l)
			}
		}
		same(t, fmt.Sprint("after ", stop, " events, from ", at), got, want...)
		r.Close()
	}
}
