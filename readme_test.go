//go:build unix

package freshet_test

import (
	"os"
	"testing"

	"github.com/freshetdev/freshet/internal/readme"
	"github.com/freshetdev/freshet/internal/testenv"
)

// TestReadme runs every block of the README: what it shows must work as it stands. How to
// say what a block needs is in the package comment of internal/readme. What the README takes for given is here: PostgreSQL with a table,
// Redis, and where they are.
func TestReadme(t *testing.T) {
	pg, redis := testenv.Postgres(t, "wal_level=logical"), testenv.Redis(t)
	pg.SQL(t, "create table users (id int primary key, name text); insert into users values (1, 'Ada')")
	env := []string{"TMPDIR=" + t.TempDir(), "DATABASE_URL=" + pg.URL(), "REDIS_URL=" + redis.URL(), "PATH=" + pg.Bin() + string(os.PathListSeparator) + os.Getenv("PATH")}
	if err := readme.Check(t.Context(), "README.md", readme.Options{Root: ".", Env: env, Log: t.Logf}); err != nil {
		t.Error(err)
	}
}
