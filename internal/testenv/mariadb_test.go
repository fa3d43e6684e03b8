//go:build unix

package testenv

import (
	"os"
	"testing"
)

func TestMariaDB(t *testing.T) {
	var dir string
	t.Run("runs", func(t *testing.T) {
		s := MariaDB(t, "binlog-row-image=MINIMAL")
		dir = s.Dir()
		if got := s.SQL(t, "select @@log_bin, @@binlog_format, @@binlog_row_image"); got != "1\tROW\tMINIMAL" {
			t.Errorf("the binary log is %q", got)
		}
		s.SQL(t, "create table t (n int primary key); insert into t values (7)")
		s.Restart()
		if got := s.SQL(t, "select n from t"); got != "7" {
			t.Errorf("after a crash there is %q; want 7", got)
		}
	})
	if _, err := os.Stat(dir); !os.IsNotExist(err) {
		t.Errorf("%s is still there: %v", dir, err)
	}
}
