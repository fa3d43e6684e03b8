package sqlitecdc

import (
	"context"
	"database/sql"
	"fmt"
	"time"
)

// An OutboxState is what waits in the outbox: for people who want to know why it grows.
type OutboxState struct {
	Exists bool

	// Rows is how many changes are kept, and Max how many may be. The last one is kept always, and a pump that works leaves those of the last 30 s.
	Rows, Max int64

	// Oldest is how long ago the oldest of them was made, but for the one that is kept always; zero if there is none.
	Oldest time.Duration
}

// Outbox looks at the outbox now. It changes nothing.
func (s *Source) Outbox(ctx context.Context) (state OutboxState, err error) {
	state.Max = s.opts.MaxRows
	err = s.briefly(ctx, func(c *sql.Conn) error {
		return inTx(ctx, c, `BEGIN`, func() error {
			rows, err := query(ctx, c, `SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = ?`, s.names.prefix+"changes")
			if err != nil || len(rows) == 0 {
				return err
			}
			state.Exists = true
			var at sql.NullInt64
			err = c.QueryRowContext(ctx, `SELECT count(*), (SELECT at FROM `+s.names.changes+` ORDER BY id LIMIT 1 OFFSET 1) FROM `+s.names.changes).Scan(&state.Rows, &at)
			if at.Valid {
				state.Oldest = max(time.Since(time.UnixMilli(at.Int64)), 0)
			}
			return err
		})
	})
	if err != nil {
		return state, fmt.Errorf("sqlitecdc: outbox: %w", err)
	}
	return state, nil
}
