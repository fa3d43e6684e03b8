package mysqlcdc

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"time"

	"github.com/go-mysql-org/go-mysql/mysql"
	"github.com/go-mysql-org/go-mysql/replication"

	"github.com/freshetdev/freshet/cdc"
)

// heartbeat is how often the server says something when nothing is written.
const heartbeat = time.Second

// A feed is a connection over which the server sends its binary log.
type feed struct{ *link }

// openFeed asks for the binary log from a spot on. If once is set, the server ends it where the log ends.
//
// The checksum of events stays on them as it is in the file: so their sizes are those in the file, too, of which offsets are made where events have none
// (MariaDB 11.4 and later, within transactions).
func (s *Source) openFeed(ctx context.Context, v *server, at spot, once bool) (*feed, error) {
	l, err := s.connect(ctx)
	if err != nil {
		return nil, err
	}
	f := &feed{l}
	ctx, cancel := context.WithTimeout(ctx, s.opts.Timeout)
	defer cancel()
	// The pump may stop reading for as long as the store is away.
	sql := fmt.Sprintf(`set session net_write_timeout = 31536000, @master_heartbeat_period = %d, @source_heartbeat_period = %[1]d,
		@master_binlog_checksum = @@global.binlog_checksum, @source_binlog_checksum = @@global.binlog_checksum`, heartbeat.Nanoseconds())
	if v.mariadb {
		sql += `, @mariadb_slave_capability = 4` // we know GTIDs
	} else {
		sql += fmt.Sprintf(`, @slave_uuid = '%s', @replica_uuid = '%[1]s'`, randomUUID())
	}
	if _, err := f.query(ctx, sql+s.also); err != nil {
		_ = f.close()
		return nil, fmt.Errorf("mysqlcdc: feed: %w", err)
	}
	flags := replication.BINLOG_DUMP_NEVER_STOP
	if once {
		flags |= replication.BINLOG_DUMP_NON_BLOCK
	}
	if v.mariadb {
		flags |= replication.BINLOG_SEND_ANNOTATE_ROWS_EVENT // nothing left out, for the offsets
	}
	data := make([]byte, 4, 15+len(at.file))
	data = append(data, mysql.COM_BINLOG_DUMP)
	data = binary.LittleEndian.AppendUint32(data, uint32(at.off))
	data = binary.LittleEndian.AppendUint16(data, flags)
	// Two replicas with one number would end each other.
	data = binary.LittleEndian.AppendUint32(data, 1<<31|rand.Uint32())
	data = append(data, at.file...)
	f.ResetSequence()
	if err := f.WritePacket(data); err != nil {
		_ = f.close()
		return nil, fmt.Errorf("mysqlcdc: feed: %w", err)
	}
	return f, nil
}

func randomUUID() string {
	var b [16]byte
	binary.LittleEndian.PutUint64(b[:], rand.Uint64())
	binary.LittleEndian.PutUint64(b[8:], rand.Uint64())
	b[6], b[8] = b[6]&0x0f|0x40, b[8]&0x3f|0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:])
}

// errEndOfLog is returned for a feed that was asked for once.
var errEndOfLog = errors.New("mysqlcdc: the binary log ends")

// packet returns the bytes of the next event: its header of 19 bytes, and its body. They are not used again.
func (f *feed) packet(ctx context.Context) ([]byte, error) {
	stop := context.AfterFunc(ctx, func() { _ = f.net.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	b, err := f.ReadPacket()
	if err != nil {
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		return nil, fmt.Errorf("mysqlcdc: read: %w", err)
	}
	switch {
	case len(b) == 0:
		return nil, gap("the server sent an empty packet")
	case b[0] == mysql.ERR_HEADER:
		return nil, broken(fmt.Errorf("mysqlcdc: read: %w", f.HandleErrorPacket(b)))
	case b[0] == mysql.EOF_HEADER:
		return nil, errEndOfLog
	case b[0] != mysql.OK_HEADER || len(b) < 1+replication.EventHeaderSize:
		return nil, gap("the server sent a packet of %d bytes that begins with %#x; want an event", len(b), b[0])
	}
	return b[1:], nil
}

// why is the reason why the server isn't found to serve the feed: it may have ended it, and said why.
func (f *feed) why(ctx context.Context, otherwise error) error {
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	for range 1000 {
		_, err := f.packet(ctx)
		switch {
		case errors.Is(err, cdc.ErrGap):
			return err
		case err != nil:
			return otherwise
		}
	}
	return otherwise
}

// broken makes an error of the server a gap if it would come again at the same place.
func broken(err error) error {
	if code(err) == erFatalRead && !strings.Contains(err.Error(), "server_id") && !strings.Contains(err.Error(), "server_uuid") {
		return gap("%w", err)
	}
	return err
}

func (f *feed) close() error { return f.link.net.Close() }
