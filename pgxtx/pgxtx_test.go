package pgxtx_test

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/jackc/pgx/v5/stdlib"
	"go.uber.org/goleak"

	"github.com/freshetdev/freshet"
	"github.com/freshetdev/freshet/internal/testenv"
	"github.com/freshetdev/freshet/pgxtx"
	"github.com/freshetdev/freshet/sqltx"
	"github.com/freshetdev/freshet/store/memstore"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// querier is what the loader of these tests reads with: the pool, or the transaction of the context.
type querier interface {
	name(ctx context.Context, id int) (string, error)
	setName(ctx context.Context, id int, name string) error
}

type txKey struct{}

// A way is one of the packages: transactions over pgx, or over database/sql.
type way struct {
	db  querier
	run func(ctx context.Context, client *freshet.Client, f func(ctx context.Context, q querier) error) error
}

type pgxQ struct {
	db interface {
		QueryRow(context.Context, string, ...any) pgx.Row
	}
}

const (
	readName  = "SELECT name FROM users WHERE id = $1"
	writeName = "UPDATE users SET name = $2 WHERE id = $1 RETURNING name"
)

func (q pgxQ) name(ctx context.Context, id int) (name string, err error) {
	return name, q.db.QueryRow(ctx, readName, id).Scan(&name)
}
func (q pgxQ) setName(ctx context.Context, id int, name string) error {
	return q.db.QueryRow(ctx, writeName, id, name).Scan(&name)
}

type sqlQ struct {
	db interface {
		QueryRowContext(context.Context, string, ...any) *sql.Row
	}
}

func (q sqlQ) name(ctx context.Context, id int) (name string, err error) {
	return name, q.db.QueryRowContext(ctx, readName, id).Scan(&name)
}
func (q sqlQ) setName(ctx context.Context, id int, name string) error {
	return q.db.QueryRowContext(ctx, writeName, id, name).Scan(&name)
}

// ways connects to url in both ways.
func ways(t *testing.T, url string) map[string]way {
	t.Helper()
	pool, err := pgxpool.New(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pool.Close)
	config, err := pgx.ParseConfig(url)
	if err != nil {
		t.Fatal(err)
	}
	db := stdlib.OpenDB(*config)
	t.Cleanup(func() { db.Close() })
	return map[string]way{
		"pgxtx": {pgxQ{pool}, func(ctx context.Context, c *freshet.Client, f func(context.Context, querier) error) error {
			return pgxtx.Run(ctx, c, pool, pgx.TxOptions{}, func(ctx context.Context, tx pgx.Tx) error {
				return f(context.WithValue(ctx, txKey{}, pgxQ{tx}), pgxQ{tx})
			})
		}},
		"sqltx": {sqlQ{db}, func(ctx context.Context, c *freshet.Client, f func(context.Context, querier) error) error {
			return sqltx.Run(ctx, c, db, nil, func(ctx context.Context, tx *sql.Tx) error {
				return f(context.WithValue(ctx, txKey{}, sqlQ{tx}), sqlQ{tx})
			})
		}},
	}
}

// users makes an instance with a cache of the table. Its loader reads in the transaction of its context, if there is one.
func users(t *testing.T, srv *memstore.Server, db querier) (*freshet.Client, *freshet.Cache[int, string]) {
	t.Helper()
	c, err := freshet.New(srv.Connect(), freshet.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	cache, err := freshet.NewCache(c, freshet.Config[int, string]{
		Name: "user", TTL: time.Hour,
		Tags: func(id int) []string { return []string{freshet.Tag("users", id)} },
		Load: func(ctx context.Context, id int, _ *freshet.Load) (string, error) {
			if tx, ok := ctx.Value(txKey{}).(querier); ok {
				return tx.name(ctx, id)
			}
			return db.name(ctx, id)
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	return c, cache
}

func is[T comparable](t *testing.T, what string, got, want T) {
	t.Helper()
	if got != want {
		t.Errorf("%s is %v; want %v", what, got, want)
	}
}

func get(t *testing.T, ctx context.Context, cache *freshet.Cache[int, string], id int) string {
	t.Helper()
	name, err := cache.Get(ctx, id)
	if err != nil {
		t.Errorf("Get: %v", err)
	}
	return name
}

// eventually is for what another instance learns by a message.
func eventually(t *testing.T, cache *freshet.Cache[int, string], id int, want string) {
	t.Helper()
	deadline := time.Now().Add(30 * time.Second) // a drop is repeated after 1 and 10 seconds
	for {
		got := get(t, t.Context(), cache, id)
		if got == want {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%d is still %q; want %q", id, got, want)
		}
		time.Sleep(time.Millisecond)
	}
}

func TestPostgres(t *testing.T) {
	pg := testenv.Postgres(t)
	pg.SQL(t, `
		CREATE TABLE users (id int PRIMARY KEY, name text NOT NULL, CONSTRAINT short CHECK (length(name) < 100));
		CREATE TABLE waiting (n int);
		CREATE FUNCTION wait() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM pg_advisory_xact_lock(NEW.n); RETURN NULL; END $$;
		CREATE CONSTRAINT TRIGGER wait AFTER INSERT ON waiting DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION wait();
		CREATE FUNCTION fail() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'no commit'; END $$;
		CREATE TABLE failing (n int);
		CREATE CONSTRAINT TRIGGER fail AFTER INSERT ON failing DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION fail();`)
	for name, w := range ways(t, pg.URL()) {
		t.Run(name, func(t *testing.T) {
			pg.SQL(t, "TRUNCATE users; INSERT INTO users SELECT n, 'old' FROM generate_series(1, 100) n")
			t.Run("commit and rollback", func(t *testing.T) { testCommit(t, w) })
			t.Run("storm", func(t *testing.T) { testStorm(t, w) })
			t.Run("connection lost in commit", func(t *testing.T) { testLostCommit(t, pg, name) })
			t.Run("commit refused", func(t *testing.T) { testRefused(t, w) })
			t.Run("canceled", func(t *testing.T) { testCanceled(t, w) })
		})
	}
	t.Run("docs", func(t *testing.T) { testDocs(t, pg) })
	t.Run("failed statement", func(t *testing.T) { testFailedStatement(t, pg) })
}

func testCommit(t *testing.T, w way) {
	srv := memstore.NewServer(memstore.Options{})
	a, ca := users(t, srv, w.db)
	_, cb := users(t, srv, w.db)
	is(t, "before", get(t, t.Context(), cb, 1), "old")
	write := func(name string, result error) error {
		return w.run(t.Context(), a, func(ctx context.Context, q querier) error {
			if err := q.setName(ctx, 1, name); err != nil {
				return err
			}
			// Loaded in the transaction though nothing is dropped yet: must not be stored.
			is(t, "a user not written", get(t, ctx, ca, 2), "old")
			if err := ca.Drop(ctx, 1); err != nil {
				return err
			}
			is(t, "in the transaction", get(t, ctx, ca, 1), name)
			is(t, "outside", get(t, t.Context(), ca, 1), "old")
			return result
		})
	}
	abort := errors.New("abort")
	if err := write("new", abort); !errors.Is(err, abort) {
		t.Errorf("Run: %v", err)
	}
	is(t, "after the rollback", get(t, t.Context(), ca, 1), "old")
	is(t, "drops", a.Stats().Drops, 0)
	func() {
		defer func() { is(t, "the panic", recover(), any("p")) }()
		w.run(t.Context(), a, func(ctx context.Context, q querier) error { ca.Drop(ctx, 1); panic("p") })
	}()
	is(t, "drops", a.Stats().Drops, 0)
	if err := write("new", nil); err != nil {
		t.Errorf("Run: %v", err)
	}
	is(t, "after the commit", get(t, t.Context(), ca, 1), "new")
	eventually(t, cb, 1, "new")
	err := w.run(t.Context(), a, func(ctx context.Context, q querier) error {
		return w.run(ctx, a, func(context.Context, querier) error { t.Error("nested"); return nil })
	})
	is(t, "nested", errors.Is(err, freshet.ErrTxOpen), true)
}

// Writers and readers on two instances: when all is quiet, the caches have what the database has.
func testStorm(t *testing.T, w way) {
	srv := memstore.NewServer(memstore.Options{})
	a, ca := users(t, srv, w.db)
	b, cb := users(t, srv, w.db)
	abort := errors.New("abort")
	var n atomic.Int64
	var wg sync.WaitGroup
	for g := range 4 {
		client, cache := a, ca
		if g%2 == 1 {
			client, cache = b, cb
		}
		wg.Go(func() {
			for i := range 40 {
				id := 10 + i%4
				name := fmt.Sprint("v", n.Add(1))
				err := w.run(t.Context(), client, func(ctx context.Context, q querier) error {
					if err := q.setName(ctx, id, "uncommitted"); err != nil {
						return err
					}
					if got := get(t, ctx, cache, 20+id); got == "uncommitted" {
						t.Errorf("read %q", got)
					}
					if err := client.DropTags(ctx, freshet.Tag("users", id)); err != nil {
						return err
					}
					if err := q.setName(ctx, id, name); err != nil {
						return err
					}
					if got := get(t, ctx, cache, id); got != name {
						t.Errorf("in the transaction: %q; want %q", got, name)
					}
					if i%3 == 0 {
						return abort
					}
					return nil
				})
				if err != nil && !errors.Is(err, abort) {
					t.Error(err)
				}
			}
		})
		wg.Go(func() {
			for i := range 400 {
				if got := get(t, t.Context(), cache, 10+i%4); got == "uncommitted" {
					t.Error("read what is not committed")
				}
			}
		})
	}
	wg.Wait()
	for id := 10; id < 14; id++ {
		want, err := w.db.name(t.Context(), id)
		if err != nil {
			t.Fatal(err)
		}
		eventually(t, ca, id, want)
		eventually(t, cb, id, want)
	}
}

// The connection breaks while the server is at the commit: the client can't know whether it happened. It does, after the
// drop; an old row loaded in between is dropped again.
func testLostCommit(t *testing.T, pg *testenv.PostgresServer, name string) {
	proxy := testenv.Proxy(t, pg.Addr())
	direct := ways(t, pg.URL())[name]
	w := ways(t, pg.URLAt(proxy.Addr()))[name]
	srv := memstore.NewServer(memstore.Options{})
	a, ca := users(t, srv, direct.db)
	_, cb := users(t, srv, direct.db)
	is(t, "before", get(t, t.Context(), cb, 3), "old")
	hold, err := pgx.Connect(t.Context(), pg.URL())
	if err != nil {
		t.Fatal(err)
	}
	defer hold.Close(context.Background())
	if _, err := hold.Exec(t.Context(), "SELECT pg_advisory_lock(42)"); err != nil {
		t.Fatal(err)
	}
	var cut sync.WaitGroup
	defer cut.Wait()
	cut.Go(func() {
		defer proxy.Cut()
		for n := 0; n == 0; {
			if err := hold.QueryRow(t.Context(), "SELECT count(*) FROM pg_locks WHERE NOT granted").Scan(&n); err != nil {
				t.Error(err)
				return
			}
		}
	})
	err = w.run(t.Context(), a, func(ctx context.Context, q querier) error {
		if err := q.setName(ctx, 3, "new"); err != nil {
			return err
		}
		if err := exec(ctx, q, "INSERT INTO waiting VALUES (42)"); err != nil { // COMMIT waits for the lock
			return err
		}
		return ca.Drop(ctx, 3)
	})
	if !errors.As(err, new(*freshet.CommitError)) || errors.Is(err, freshet.ErrPending) {
		t.Fatalf("Run: %v; want a CommitError", err)
	}
	cut.Wait()
	is(t, "before the server commits", get(t, t.Context(), ca, 3), "old") // loaded and stored after the drop
	if _, err := hold.Exec(t.Context(), "SELECT pg_advisory_unlock(42)"); err != nil {
		t.Fatal(err)
	}
	eventually(t, cb, 3, "new")
}

// The server refuses the commit. That isn't told from an unknown outcome, and costs a load.
func testRefused(t *testing.T, w way) {
	srv := memstore.NewServer(memstore.Options{})
	a, ca := users(t, srv, w.db)
	is(t, "before", get(t, t.Context(), ca, 4), "old")
	err := w.run(t.Context(), a, func(ctx context.Context, q querier) error {
		return errors.Join(q.setName(ctx, 4, "new"), exec(ctx, q, "INSERT INTO failing VALUES (1)"), ca.Drop(ctx, 4))
	})
	if !errors.As(err, new(*freshet.CommitError)) || !strings.Contains(err.Error(), "no commit") {
		t.Errorf("Run: %v", err)
	}
	is(t, "afterwards", get(t, t.Context(), ca, 4), "old")
}

func testCanceled(t *testing.T, w way) {
	srv := memstore.NewServer(memstore.Options{})
	a, ca := users(t, srv, w.db)
	is(t, "before", get(t, t.Context(), ca, 5), "old")
	ctx, cancel := context.WithCancel(t.Context())
	err := w.run(ctx, a, func(ctx context.Context, q querier) error {
		if err := errors.Join(q.setName(ctx, 5, "new"), ca.Drop(ctx, 5)); err != nil {
			return err
		}
		cancel()
		return ctx.Err()
	})
	if !errors.Is(err, context.Canceled) {
		t.Errorf("Run: %v", err)
	}
	is(t, "afterwards", get(t, t.Context(), ca, 5), "old")
	is(t, "open", a.Stats().TxOpen, 0)
}

// A statement failed and nobody minded: the server answers COMMIT with ROLLBACK.
func testFailedStatement(t *testing.T, pg *testenv.PostgresServer) {
	conn, err := pgx.Connect(t.Context(), pg.URL())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(context.Background())
	srv := memstore.NewServer(memstore.Options{})
	a, ca := users(t, srv, pgxQ{conn})
	err = pgxtx.Run(t.Context(), a, conn, pgx.TxOptions{}, func(ctx context.Context, tx pgx.Tx) error {
		ca.Drop(ctx, 6)
		tx.Exec(ctx, "SELECT 1/0")
		return nil
	})
	if !errors.Is(err, pgx.ErrTxCommitRollback) || !errors.Is(err, freshet.ErrRolledBack) {
		t.Errorf("Run: %v", err)
	}
	is(t, "drops", a.Stats().Drops, 0)
}

func exec(ctx context.Context, q querier, statement string) error {
	var err error
	switch q := q.(type) {
	case pgxQ:
		_, err = q.db.(pgx.Tx).Exec(ctx, statement)
	case sqlQ:
		_, err = q.db.(*sql.Tx).ExecContext(ctx, statement)
	}
	return err
}
