//go:build unix

package testenv

import (
	"os"
	"testing"
)

func TestPostgres(t *testing.T) {
	var dir string
	t.Run("runs", func(t *testing.T) {
		s := Postgres(t, "wal_level=logical")
		dir = s.Dir()
		if got := s.SQL(t, "show wal_level"); got != "logical" {
			t.Errorf("wal_level is %q; want logical", got)
		}
		s.SQL(t, "create table t (n int); insert into t values (7)")
		s.Restart()
		if got := s.SQL(t, "select n from t"); got != "7" {
			t.Errorf("after a restart there is %q; want 7", got)
		}
	})
	if _, err := os.Stat(dir); !os.IsNotExist(err) {
		t.Errorf("%s is still there: %v", dir, err)
	}
}
