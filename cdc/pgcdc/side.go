package pgcdc

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
)

// A side is a connection for queries beside the replication connection. It is safe for concurrent use: one query
// at a time. A query that is given up breaks the connection; the next makes another.
type side struct {
	config  *pgconn.Config
	timeout time.Duration // of one query, connecting included
	turn    chan struct{} // capacity 1: whose turn it is
	conn    *pgconn.PgConn

	prepared map[string]bool // statements that conn has prepared, each under its own text; of whose turn it is

	mu     sync.Mutex
	server func(ctx context.Context, d *side) error // checks a new connection; guarded by mu
}

func newSide(config *pgconn.Config, timeout time.Duration) *side {
	return &side{config: config, timeout: timeout, turn: make(chan struct{}, 1)}
}

// query runs one statement and returns its rows as text; null is "".
func (d *side) query(ctx context.Context, sql string, args ...string) ([][]string, error) {
	return d.inTurn(ctx, func(ctx context.Context) *pgconn.Result {
		return d.conn.ExecParams(ctx, sql, params(args), nil, nil, nil).Read()
	})
}

// ask is row for a statement that is asked often: the server parses and plans it once.
func (d *side) ask(ctx context.Context, sql string) ([]string, error) {
	return one(d.inTurn(ctx, func(ctx context.Context) *pgconn.Result {
		if !d.prepared[sql] {
			if _, err := d.conn.Prepare(ctx, sql, sql, nil); err != nil {
				return &pgconn.Result{Err: err}
			}
			d.prepared[sql] = true
		}
		return d.conn.ExecPrepared(ctx, sql, nil, nil, nil).Read()
	}))
}

func (d *side) inTurn(ctx context.Context, f func(context.Context) *pgconn.Result) ([][]string, error) {
	ctx, cancel := context.WithTimeout(ctx, d.timeout)
	defer cancel()
	select {
	case d.turn <- struct{}{}:
		defer func() { <-d.turn }()
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	if d.conn == nil || d.conn.IsClosed() {
		conn, err := pgconn.ConnectConfig(ctx, d.config)
		if err != nil {
			return nil, err
		}
		d.conn, d.prepared = conn, map[string]bool{}
		d.mu.Lock()
		server := d.server
		d.mu.Unlock()
		if server != nil {
			if err := server(ctx, d); err != nil {
				d.end()
				return nil, err
			}
		}
	}
	return texts(f(ctx))
}

// run is query for those whose turn it is.
func (d *side) run(ctx context.Context, sql string, args ...string) ([][]string, error) {
	return texts(d.conn.ExecParams(ctx, sql, params(args), nil, nil, nil).Read())
}

func params(args []string) [][]byte {
	p := make([][]byte, len(args))
	for i, a := range args {
		p[i] = []byte(a)
	}
	return p
}

func texts(res *pgconn.Result) ([][]string, error) {
	if res.Err != nil {
		return nil, res.Err
	}
	rows := make([][]string, len(res.Rows))
	for i, row := range res.Rows {
		rows[i] = make([]string, len(row))
		for j, v := range row {
			rows[i][j] = string(v)
		}
	}
	return rows, nil
}

// row is query for statements that give one row.
func (d *side) row(ctx context.Context, sql string, args ...string) ([]string, error) {
	return one(d.query(ctx, sql, args...))
}

func one(rows [][]string, err error) ([]string, error) {
	if err == nil && len(rows) != 1 {
		err = fmt.Errorf("pgcdc: %d rows from the server; want 1", len(rows))
	}
	if err != nil {
		return nil, err
	}
	return rows[0], nil
}

// must sets what every new connection is checked with.
func (d *side) must(server func(ctx context.Context, d *side) error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.server = server
}

// close ends the connection. A query under way is waited for.
func (d *side) close() {
	d.turn <- struct{}{}
	defer func() { <-d.turn }()
	d.end()
}

func (d *side) end() {
	if d.conn == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	_ = d.conn.Close(ctx) // it is gone either way
	d.conn = nil
}

// hasCode reports whether err is one of PostgreSQL with such a code, in full or its class.
func hasCode(err error, codes ...string) bool {
	var pg *pgconn.PgError
	if !errors.As(err, &pg) {
		return false
	}
	for _, c := range codes {
		if strings.HasPrefix(pg.Code, c) {
			return true
		}
	}
	return false
}

// quote makes a name an identifier.
func quote(name string) string { return `"` + strings.ReplaceAll(name, `"`, `""`) + `"` }

// literal makes a text a constant.
func literal(s string) string {
	s = strings.ReplaceAll(s, "'", "''")
	if strings.Contains(s, `\`) {
		return " E'" + strings.ReplaceAll(s, `\`, `\\`) + "'"
	}
	return "'" + s + "'"
}
