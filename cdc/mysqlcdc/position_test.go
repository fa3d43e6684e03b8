package mysqlcdc

import (
	"testing"

	"github.com/freshetdev/freshet/cdc"
)

func TestPosition(t *testing.T) {
	uuid := "3e11fa47-71ca-11e1-9e33-c80aa9429562"
	for _, p := range []place{
		{serverMariaDB + "1", spot{"binlog.000003", 4711}, 1767225600, "0-1-245"},
		{serverMariaDB + "4294967295", spot{"mysql bin%.1234567", 1 << 40}, 0, ""},
		{serverMySQL + uuid, spot{"a.b.000001", 4}, 1, uuid + ":77"},
	} {
		got, err := parsePlace(p.position())
		if err != nil || got != p {
			t.Errorf("%s is %+v, %v; want %+v", p.position(), got, err, p)
		}
	}
	for _, bad := range []cdc.Position{
		"", "nonsense", "mariadb-1/binlog.000003/1/4711", "mariadb-1/binlog.000003/1/4711/", "mariadb-x/binlog.000003/1/4711/-", "mariadb-1/binlog/1/4711/-",
		"mariadb-1/binlog.000003/01/4711/-", "mariadb-1/binlog.000003/1/+4711/-", "mariadb-1/binlog.000003/1/4711/0-1", "mariadb-1/binlog.000003/1/4711/0-1-01",
		"mariadb-1/%62inlog.000003/1/4711/-", "mysql-" + cdc.Position(uuid) + "/binlog.000003/1/4711/0-1-2", "mysql-3E11FA47-71ca-11e1-9e33-c80aa9429562/binlog.000003/1/4711/-",
		"mariadb-1/a%2Fb.000003/1/4711/-", "mariadb-1/.000003/1/4711/-", "mariadb-1/binlog.+3/1/4711/-", "other-1/binlog.000003/1/4711/-",
	} {
		if p, err := parsePlace(bad); err == nil {
			t.Errorf("%q is taken for %+v", bad, p)
		}
	}
	f := func(a, b spot, before bool) {
		t.Helper()
		if got := a.before(b); got != before {
			t.Errorf("%v before %v: %v; want %v", a, b, got, before)
		}
	}
	f(spot{"b.000009", 500}, spot{"b.000010", 4}, true)
	f(spot{"b.999999", 500}, spot{"b.1000000", 4}, true)
	f(spot{"b.000010", 4}, spot{"b.000010", 5}, true)
	f(spot{"b.000010", 5}, spot{"b.000010", 5}, false)
	f(spot{"b.000011", 4}, spot{"b.000010", 5}, false)
}

func FuzzPosition(f *testing.F) {
	f.Add("mariadb-1/binlog.000003/1767225600/4711/0-1-245")
	f.Add("mysql-3e11fa47-71ca-11e1-9e33-c80aa9429562/mysql%20bin.000003/0/4/3e11fa47-71ca-11e1-9e33-c80aa9429562:77")
	f.Add("mariadb-1/a.b.1/1/18446744073709551615/-")
	f.Fuzz(func(t *testing.T, text string) {
		p, err := parsePlace(cdc.Position(text))
		if err == nil && string(p.position()) != text {
			t.Errorf("%q is written as %q", text, p.position())
		}
	})
}
