package redisstore

import (
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/freshetdev/freshet/store"
)

// A log message is one entry of the log, as the stream keeps it in field "m" and as
// the channel announces it. docs/wire.md has it with test vectors:
//
//	1 drop <epoch> <pos> <nonce> <prev> <prevnonce> <keys> <tags>\n
//	<by><key>...<tag>...
//
// The first line is fields with one space between them: the version; "drop" or
// "epoch"; epoch and nonces as 16 lower-case hex digits, positions and counts in
// decimal. The scripts write it up to the counts. Then follow who dropped, the
// keys and the tags, each as <bytes in decimal>:<bytes>.

// maxPos is the end of what Lua's numbers hold exactly.
const maxPos = 1<<53 - 1

var errMessage = errors.New("not a log message")

// messageRest is the part of a message that the sender knows: from the counts on.
func messageRest(d store.Drop) string {
	n := len(d.By) + 24
	for _, k := range d.Keys {
		n += len(k) + 4
	}
	for _, t := range d.Tags {
		n += len(t) + 4
	}
	b := make([]byte, 0, n)
	b = strconv.AppendInt(b, int64(len(d.Keys)), 10)
	b = append(b, ' ')
	b = strconv.AppendInt(b, int64(len(d.Tags)), 10)
	b = append(b, '\n')
	b = appendItem(b, d.By)
	for _, k := range d.Keys {
		b = appendItem(b, k)
	}
	for _, t := range d.Tags {
		b = appendItem(b, t)
	}
	return string(b)
}

func appendItem(b []byte, s string) []byte {
	b = strconv.AppendInt(b, int64(len(s)), 10)
	b = append(b, ':')
	return append(b, s...)
}

// encodeMessage returns what the scripts would write; they are tested against it.
func encodeMessage(e store.LogEntry) string {
	kind := "drop"
	if e.NewEpoch {
		kind = "epoch"
	}
	return fmt.Sprintf("1 %s %016x %d %016x %d %016x %s",
		kind, e.Epoch, e.Pos, e.Nonce, e.Prev, e.PrevNonce, messageRest(e.Drop))
}

// decodeMessage reads a message. It accepts just what encodeMessage writes.
func decodeMessage(msg string) (store.LogEntry, error) {
	e, err := parseMessage(msg)
	if err != nil {
		return store.LogEntry{}, fmt.Errorf("redisstore: log message: %w", err)
	}
	return e, nil
}

func parseMessage(msg string) (e store.LogEntry, err error) {
	line, rest, ok := strings.Cut(msg, "\n")
	f := strings.Split(line, " ")
	if !ok || f[0] != "1" || len(f) != 9 {
		return e, errMessage
	}
	switch f[1] {
	case "drop":
	case "epoch":
		e.NewEpoch = true
	default:
		return e, fmt.Errorf("kind is %q; want drop or epoch", f[1])
	}
	if e.Epoch, err = parseHex16(f[2]); err != nil {
		return e, err
	}
	if e.Pos, err = parsePos(f[3]); err != nil {
		return e, err
	}
	if e.Nonce, err = parseHex16(f[4]); err != nil {
		return e, err
	}
	if e.Prev, err = parsePos(f[5]); err != nil {
		return e, err
	}
	if e.PrevNonce, err = parseHex16(f[6]); err != nil {
		return e, err
	}
	if e.By, rest, err = cutItem(rest); err != nil {
		return e, err
	}
	if e.Keys, rest, err = cutItems(f[7], rest); err != nil {
		return e, err
	}
	if e.Tags, rest, err = cutItems(f[8], rest); err != nil {
		return e, err
	}
	if rest != "" {
		return e, fmt.Errorf("%d bytes too many", len(rest))
	}
	if e.NewEpoch && (len(e.Keys) > 0 || len(e.Tags) > 0) {
		return e, errors.New("an epoch carries no drop")
	}
	return e, nil
}

func cutItems(count, from string) (items []string, rest string, err error) {
	n, err := parseCount(count)
	if err != nil {
		return nil, from, err
	}
	if n > len(from)/2 { // an item takes two bytes at least
		return nil, from, errMessage
	}
	if n > 0 {
		items = make([]string, n)
	}
	for i := range items {
		if items[i], from, err = cutItem(from); err != nil {
			return nil, from, err
		}
	}
	return items, from, nil
}

func cutItem(from string) (item, rest string, err error) {
	size, _, ok := strings.Cut(from[:min(len(from), 12)], ":")
	if !ok {
		return "", from, errMessage
	}
	n, err := parseCount(size)
	if err != nil {
		return "", from, err
	}
	rest = from[len(size)+1:]
	if n > len(rest) {
		return "", from, fmt.Errorf("item of %d bytes, but %d left", n, len(rest))
	}
	return rest[:n], rest[n:], nil
}

// parseCount reads a number in its one canonical form.
func parseCount(s string) (int, error) {
	n, err := strconv.ParseUint(s, 10, 31)
	if err != nil || strconv.FormatUint(n, 10) != s {
		return 0, fmt.Errorf("count is %q; want a number", s)
	}
	return int(n), nil
}

func parsePos(s string) (store.Pos, error) {
	n, err := strconv.ParseUint(s, 10, 64)
	if err != nil || n > maxPos || strconv.FormatUint(n, 10) != s {
		return 0, fmt.Errorf("position is %q; want a number below 2^53", s)
	}
	return store.Pos(n), nil
}

func hex16(n uint64) string {
	text := "000000000000000" + strconv.FormatUint(n, 16)
	return text[len(text)-16:]
}

func parseHex16(s string) (uint64, error) {
	n, err := strconv.ParseUint(s, 16, 64)
	if err != nil || hex16(n) != s {
		return 0, fmt.Errorf("epoch or nonce is %q; want 16 hex digits", s)
	}
	return n, nil
}
