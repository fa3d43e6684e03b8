package mysqlcdc

import (
	"context"
	"fmt"
	"sync"
	"time"
)

// A side is a connection for queries beside the feed. It is safe for concurrent use: one query
// at a time. A query that is given up breaks the connection; the next makes another.
type side struct {
	src  *Source
	turn chan struct{} // capacity 1: whose turn it is
	conn *link

	mu     sync.Mutex
	server func(ctx context.Context, l *link) error // checks a new connection; guarded by mu
}

func newSide(s *Source) *side { return &side{src: s, turn: make(chan struct{}, 1)} }

// query runs statements and returns the rows of the last as text; null is "".
func (d *side) query(ctx context.Context, sql string) ([][]string, error) {
	ctx, cancel := context.WithTimeout(ctx, d.src.opts.Timeout)
	defer cancel()
	select {
	case d.turn <- struct{}{}:
		defer func() { <-d.turn }()
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	if d.conn == nil {
		conn, err := d.src.connect(ctx)
		if err != nil {
			return nil, err
		}
		d.mu.Lock()
		server := d.server
		d.mu.Unlock()
		if server != nil {
			if err := server(ctx, conn); err != nil {
				_ = conn.Close()
				return nil, err
			}
		}
		d.conn = conn
	}
	rows, err := d.conn.query(ctx, sql)
	if ctx.Err() != nil || err != nil && code(err) == 0 { // a context that ended has set a deadline
		_ = d.conn.Close()
		d.conn = nil
	}
	return rows, err
}

// row is query for statements that give one row of so many columns, or more.
func (d *side) row(ctx context.Context, columns int, sql string) ([]string, error) {
	rows, err := d.query(ctx, sql)
	if err == nil && (len(rows) != 1 || len(rows[0]) < columns) {
		err = fmt.Errorf("mysqlcdc: %.60s: %d rows; want 1 of %d columns", sql, len(rows), columns)
	}
	if err != nil {
		return nil, err
	}
	return rows[0], nil
}

// must sets what every new connection is checked with.
func (d *side) must(server func(ctx context.Context, l *link) error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.server = server
}

// close ends the connection. A query under way is waited for.
func (d *side) close() {
	d.turn <- struct{}{}
	defer func() { <-d.turn }()
	if d.conn != nil {
		_ = d.conn.net.SetDeadline(time.Now().Add(time.Second))
		_ = d.conn.Quit()
		_ = d.conn.Close()
		d.conn = nil
	}
}
