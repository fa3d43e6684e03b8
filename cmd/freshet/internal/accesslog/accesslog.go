// Package accesslog writes one line a request: for people on a terminal, as JSON
// everywhere else. Paths are logged without their query, which may hold secrets; keys
// are not logged at all.
package accesslog

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"strings"
	"time"

	"github.com/lmittmann/tint"

	"github.com/freshetdev/freshet/cmd/freshet/internal/proxy"
	"github.com/freshetdev/freshet/observe"
)

// A Format is how lines look.
type Format string

// The formats.
const (
	Auto Format = "auto" // Text on a terminal, JSON elsewhere
	Text Format = "text"
	JSON Format = "json"
	Off  Format = "off" // no line a request; warnings still come, as Text
)

// A Log is where requests and warnings go. Safe for concurrent use.
type Log struct {
	Format Format // what Auto became

	*slog.Logger // for everything that isn't a request

	w     io.Writer
	color bool
}

// New returns a Log that writes to w. Color is used on terminals only, and not if NO_COLOR is set.
func New(w io.Writer, f Format) *Log {
	tty := isTerminal(w)
	if f == Auto {
		f = JSON
		if tty {
			f = Text
		}
	}
	l := &Log{Format: f, w: w, color: tty && os.Getenv("NO_COLOR") == ""}
	if f == JSON {
		l.Logger = slog.New(slog.NewJSONHandler(w, nil))
	} else {
		l.Logger = slog.New(tint.NewTextHandler(w, &tint.Options{TimeFormat: time.TimeOnly, NoColor: !l.color}))
	}
	return l
}

// Request logs one exchange.
func (l *Log) Request(x proxy.Exchange) {
	switch l.Format {
	case JSON:
		l.LogAttrs(context.Background(), level(x), "request", attrs(x)...)
	case Text:
		_, _ = io.WriteString(l.w, line(x, l.color)) // one write a line, so that lines don't mix
	}
}

func level(x proxy.Exchange) slog.Level {
	switch {
	case x.Err != nil || x.DropErr != nil || x.Aborted || x.Status >= 500:
		return slog.LevelWarn
	}
	return slog.LevelInfo
}

func attrs(x proxy.Exchange) []slog.Attr {
	cache := []slog.Attr{slog.String("status", x.Outcome.String())}
	if x.Reason != observe.ReasonNone {
		cache = append(cache, slog.String("reason", string(x.Reason)))
	}
	if x.Stored {
		cache = append(cache, slog.Bool("stored", true))
	}
	if x.Joined {
		cache = append(cache, slog.Bool("joined", true))
	}
	a := []slog.Attr{
		slog.String("method", x.Method),
		slog.String("path", x.Path),
		slog.Int("status", x.Status),
		slog.Float64("took_ms", ms(x.Took)),
		slog.Int64("bytes", x.Bytes),
		slog.Attr{Key: "cache", Value: slog.GroupValue(cache...)},
	}
	if x.Query != "" {
		a = append(a, slog.Bool("query", true)) // another key than without
	}
	if len(x.Limits) > 0 {
		a = append(a, slog.Any("limits", x.Limits))
	}
	if x.Outcome == proxy.Hit || x.Outcome == proxy.Stale {
		a = append(a, slog.Int64("age_ms", x.Age.Milliseconds()))
	}
	if x.Stored || x.Outcome == proxy.Hit || x.Outcome == proxy.Stale {
		a = append(a, slog.Int64("ttl_ms", x.TTL.Milliseconds()))
	}
	if x.Dropped != "" {
		a = append(a, slog.String("dropped", x.Dropped))
	}
	if x.Aborted {
		a = append(a, slog.Bool("aborted", true))
	}
	if x.DropErr != nil {
		a = append(a, slog.String("drop_error", x.DropErr.Error()))
	}
	if x.Err != nil {
		a = append(a, slog.String("error", x.Err.Error()))
	}
	return a
}

// line is the form for people:
//
//	20:41:07 GET /products/42           200  miss   251 ms  stored 30s
func line(x proxy.Exchange, color bool) string {
	outcome := fmt.Sprintf("%-5s", x.Outcome)
	if color {
		outcome = colors[x.Outcome] + outcome + "\x1b[0m"
	}
	path := x.Path
	if x.Query != "" {
		path += "?…" // another key than without
	}
	s := fmt.Sprintf("%s %-28s %3d  %s %8s", x.Time.Format(time.TimeOnly), x.Method+" "+path, x.Status, outcome, Short(x.Took))
	if n := remark(x); n != "" {
		s += "  " + n
	}
	return s + "\n"
}

var colors = map[proxy.Outcome]string{
	proxy.Hit: "\x1b[32m", proxy.Stale: "\x1b[36m", proxy.Miss: "\x1b[33m", proxy.Pass: "\x1b[2m", proxy.Error: "\x1b[31m",
	proxy.Limit: "\x1b[35m",
}

func remark(x proxy.Exchange) string {
	words, _ := proxy.Explain(x.Reason)
	switch {
	case x.Aborted:
		return "broke off after " + Bytes(x.Bytes)
	case x.Outcome == proxy.Error && x.Err != nil && x.Reason != proxy.ReasonClientGone:
		return join(fmt.Sprintf("%s: %v", words, x.Err), dropped(x))
	case x.Outcome == proxy.Error:
		return join(words, dropped(x))
	case x.Dropped != "":
		return dropped(x)
	case x.Outcome == proxy.Limit:
		return strings.Join(append([]string{words}, x.Limits...), " ")
	case x.Outcome == proxy.Hit:
		return "age " + whole(x.Age.Truncate(time.Second))
	case x.Outcome == proxy.Stale:
		return fmt.Sprintf("stale since %s: %s", whole(-x.TTL), words)
	}
	s := ""
	switch {
	case x.Stored:
		s = "stored " + whole(x.TTL)
	case x.Outcome == proxy.Pass && x.Reason == proxy.ReasonMethod:
	case x.Reason != "":
		s = "not stored: " + words
	}
	if x.Joined {
		s = join(s, "shared a load")
	}
	return s
}

// dropped tells of the drop that a write made.
func dropped(x proxy.Exchange) string {
	if x.Dropped == "" {
		return ""
	}
	s := fmt.Sprintf("dropped %s (%s)", x.Dropped, Short(x.DropTook))
	if x.DropErr != nil {
		s += ", but " + x.DropErr.Error()
	}
	return s
}

func join(a, b string) string {
	if a == "" || b == "" {
		return a + b
	}
	return a + ", " + b
}

func isTerminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	if !ok {
		return false
	}
	info, err := f.Stat()
	return err == nil && info.Mode()&os.ModeCharDevice != 0
}
