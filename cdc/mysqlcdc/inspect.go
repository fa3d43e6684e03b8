package mysqlcdc

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/freshetdev/freshet/cdc"
)

// A LogState is what the server says of its binary log, and of a position in it: for people who want to know whether a pump can go on from there.
type LogState struct {
	Server         string // "MariaDB 10.11.6-MariaDB-log"
	Oldest, Newest string // the first and the last file
	Files          int
	Size           int64 // of all files, bytes

	// Expires is after what time files are purged; zero: never. The server doesn't ask whether a pump that is away has read them.
	Expires time.Duration

	// File is where the position is, and Unread how many bytes come after it; "" and zero without one, or if its file isn't there.
	File   string
	Unread int64

	// Gap is why a stream can't begin after the position, and matches cdc.ErrGap; nil if it can, or if there is none.
	Gap error
}

// Log looks at the binary log, and at a position in it if one is given, by opening a stream there. It changes nothing.
func (s *Source) Log(ctx context.Context, from cdc.Position) (LogState, error) {
	d := newSide(s)
	defer d.close()
	v, err := describe(ctx, d.query)
	if err != nil {
		return LogState{}, err
	}
	state := LogState{Server: "MySQL " + v.version, Expires: v.expires()}
	if v.mariadb {
		state.Server = "MariaDB " + v.version
	}
	rows, err := d.query(ctx, `show binary logs`)
	if err != nil {
		return state, fmt.Errorf("mysqlcdc: files of the binary log: %w", err)
	}
	if len(rows) == 0 {
		return state, errors.New("mysqlcdc: files of the binary log: there are none")
	}
	at, posErr := parsePlace(from)
	for _, r := range rows {
		size, err := int64(0), error(nil)
		if len(r) >= 2 {
			size, err = strconv.ParseInt(r[1], 10, 64)
		}
		if len(r) < 2 || err != nil || !validFile(r[0]) {
			return state, fmt.Errorf("mysqlcdc: files of the binary log: the server says %q; want a file and its size", r)
		}
		state.Files++
		state.Size += size
		if state.Oldest == "" {
			state.Oldest = r[0]
		}
		state.Newest = r[0]
		switch {
		case posErr != nil || at.server != v.id:
		case r[0] == at.file:
			state.File = r[0]
			state.Unread = max(0, size-int64(min(at.off, uint64(size))))
		case state.File != "":
			state.Unread += size
		}
	}
	if from == "" {
		return state, nil
	}
	// What proves a position is in the feed: the time its file was made, and the transaction there.
	stream, err := s.Open(ctx, from)
	if errors.Is(err, cdc.ErrGap) {
		state.Gap = err
		return state, nil
	}
	if err != nil {
		return state, err
	}
	return state, stream.Close()
}

// expires is after what time files of the binary log are purged; zero: never.
func (v *server) expires() time.Duration {
	if n, _ := strconv.ParseInt(v.vars["binlog_expire_logs_seconds"], 10, 64); n > 0 {
		return time.Duration(n) * time.Second
	}
	days, _ := strconv.ParseFloat(v.vars["expire_logs_days"], 64) // a fraction in later versions of MariaDB
	return time.Duration(days * float64(24*time.Hour))
}
