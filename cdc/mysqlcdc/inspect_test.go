package mysqlcdc

import (
	"strings"
	"testing"
	"time"

	"github.com/freshetdev/freshet/cdc"
)

// Log tells what is kept, for how long, how much of it comes after a position, and whether a stream can begin there.
func TestLog(t *testing.T) {
	my := mariadb(t)
	d := database(t, my)
	d.sql("create table t (id int primary key, c longtext)")
	s := d.source()
	look := func(from cdc.Position) LogState {
		t.Helper()
		log, err := s.Log(t.Context(), from)
		if err != nil {
			t.Fatal(err)
		}
		return log
	}
	log := look("")
	if !strings.HasPrefix(log.Server, "MariaDB 1") || log.Files < 1 || log.Oldest == "" || log.Newest == "" || log.Size == 0 || log.Expires != 0 || log.File != "" || log.Unread != 0 || log.Gap != nil {
		t.Errorf("without a position: %+v", log)
	}
	r := d.open(s, "")
	r.After("insert into t values (1, 'x')")
	pos := r.Pos
	r.Close()
	if log := look(pos); log.File == "" || log.File != log.Newest || log.Unread > 10<<10 || log.Gap != nil {
		t.Errorf("at the end: %+v", log)
	}
	d.sql("insert into t values (2, repeat('x', 100000)); flush binary logs; insert into t values (3, repeat('x', 50000)); set global binlog_expire_logs_seconds = 5400")
	log = look(pos)
	if log.Newest == log.File || log.File == "" || log.Unread < 150_000 || log.Unread > 200_000 || log.Size < log.Unread || log.Expires != 90*time.Minute || log.Gap != nil {
		t.Errorf("150,000 bytes later, in the next file: %+v", log)
	}

	other := strings.Replace(string(pos), "mariadb-1/", "mariadb-2/", 1)
	log = look(cdc.Position(other))
	isGap(t, "a position of another server", log.Gap, "the position is of server mariadb-2")
	if log.File != "" || log.Unread != 0 {
		t.Errorf("of another server's position: %+v", log)
	}
	log = look("nonsense")
	isGap(t, "no position at all", log.Gap, "nonsense")

	last := look("").Newest
	// Until the server has noticed that the last reader of a file is gone, it keeps the file.
	await(t, "the file is purged", func() bool {
		d.sql("purge binary logs to '" + last + "'")
		return strings.HasPrefix(d.sql("show binary logs"), last)
	})
	log = look(pos)
	isGap(t, "a file that was purged", log.Gap, "")
	if log.File != "" || log.Oldest != last || log.Files != 1 {
		t.Errorf("after a purge: %+v", log)
	}
	// The same name, made at another time.
	r = d.open(s, "")
	r.After("insert into t values (4, 'x')")
	pos = r.Pos
	r.Close()
	time.Sleep(1100 * time.Millisecond) // the time of a file is in seconds
	d.sql("reset master")
	for range 10 {
		if look("").Newest == last {
			break
		}
		d.sql("flush binary logs")
	}
	d.sql("insert into t values (5, repeat('x', 100000))")
	if log = look(pos); log.File != last {
		t.Errorf("after RESET MASTER: %+v; want the file %s again", log, last)
	}
	isGap(t, "after RESET MASTER", log.Gap, "was made at")
}

func TestExpires(t *testing.T) {
	f := func(seconds, days string, want time.Duration) {
		t.Helper()
		v := &server{vars: map[string]string{"binlog_expire_logs_seconds": seconds, "expire_logs_days": days}}
		if got := v.expires(); got != want {
			t.Errorf("%s seconds, %s days: %v; want %v", seconds, days, got, want)
		}
	}
	f("", "", 0)
	f("0", "0", 0)
	f("3600", "0.041667", time.Hour)
	f("0", "10", 240*time.Hour)
	f("0", "0.5", 12*time.Hour)
}
