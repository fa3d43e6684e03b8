package observe

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"time"
)

// SlogOptions says what [Slog] writes. The zero value is right for production.
type SlogOptions struct {
	// PlainKeys writes keys and tags as they are. By default they are written as
	// a short hash, since keys often hold user names, addresses or session ids. The
	// hash of a key is the same everywhere, so lines about it can be found; whoever can guess
	// a key can also check the guess.
	PlainKeys bool
}

// Slog returns hooks that write every event to l: a constant message, and facts as attributes.
//
//	Debug   hits, misses, loads, fills, drops
//	Info    refused fills; link, log, trust, breaker and source are well again
//	Warn    failed loads and store operations, loads that were not tried, pending drops, those made coarser, a new epoch;
//	        link down, log entries missed, trust lost, breaker open, a source given up; a value that differs from the source
//	Error   a loader's panic, a changed L1 value, what can never be cached: bugs in the calling program; a drop that was not kept
//
// A level that l doesn't write costs one call of Enabled.
func Slog(l *slog.Logger, o SlogOptions) Hooks {
	w := slogWriter{l: l, plain: o.PlainKeys}
	return Hooks{
		Hit:        w.hit,
		Miss:       w.miss,
		Load:       w.load,
		Fill:       w.fill,
		Shed:       w.shed,
		Source:     w.source,
		Drop:       w.drop,
		Overflow:   w.overflow,
		Link:       w.link,
		Gap:        w.gap,
		Epoch:      w.epoch,
		Trust:      w.trust,
		Breaker:    w.breaker,
		StoreError: w.storeError,
		Mutated:    w.mutated,
		Mismatch:   w.mismatch,
		Panic:      w.panic,
	}
}

type slogWriter struct {
	l     *slog.Logger
	plain bool
}

func (w *slogWriter) hit(e Hit) {
	if !w.enabled(slog.LevelDebug) {
		return // before the attributes are built: this is the path of every hit
	}
	w.log(slog.LevelDebug, "cache hit",
		slog.String("cache", e.Cache), w.key(e.Key), slog.String("at", e.Level.String()),
		slog.Duration("age", e.Age), slog.Bool("stale", e.Stale), slog.Bool("negative", e.Negative))
}

func (w *slogWriter) miss(e Miss) {
	if !w.enabled(slog.LevelDebug) {
		return
	}
	w.log(slog.LevelDebug, "cache miss",
		slog.String("cache", e.Cache), w.key(e.Key), slog.String("at", e.Level.String()),
		slog.String("reason", string(e.Reason)))
}

func (w *slogWriter) load(e Load) {
	level, msg := slog.LevelDebug, "loaded"
	switch {
	case errors.Is(e.Err, context.Canceled):
		msg = "load canceled" // nobody waits for it any more: not the source's fault
	case e.Err != nil:
		level, msg = slog.LevelWarn, "load failed"
	}
	if !w.enabled(level) {
		return
	}
	w.log(level, msg,
		slog.String("cache", e.Cache), w.key(e.Key), slog.Duration("took", e.Took),
		slog.Bool("refresh", e.Refresh), flagAttr("verify", e.Verify), errAttr(e.Err))
}

func (w *slogWriter) fill(e Fill) {
	level, msg := slog.LevelDebug, "stored"
	switch {
	case e.Reason == ReasonNoStore && !e.Stored:
		msg = "not stored" // as the loader asked
	case !e.Stored:
		level, msg = slog.LevelInfo, "fill refused"
		switch e.Reason {
		case ReasonBadTag, ReasonManyTags, ReasonLongKey, ReasonTooLarge:
			level = slog.LevelError // a mistake in the program, which makes every such call a load
		}
	}
	if !w.enabled(level) {
		return
	}
	w.log(level, msg,
		slog.String("cache", e.Cache), w.key(e.Key), reasonAttr(e.Reason), slog.Int("bytes", e.Bytes))
}

func (w *slogWriter) shed(e Shed) {
	level := slog.LevelWarn
	if e.Reason == ReasonSourceDown {
		level = slog.LevelDebug // source has said so
	}
	if !w.enabled(level) {
		return
	}
	w.log(level, "load not tried",
		slog.String("cache", e.Cache), w.key(e.Key), reasonAttr(e.Reason), slog.Bool("refresh", e.Refresh))
}

func (w *slogWriter) source(e Source) {
	if e.Open {
		w.log(slog.LevelWarn, "source given up", slog.String("cache", e.Cache), errAttr(e.Cause))
		return
	}
	w.log(slog.LevelInfo, "source answers again", slog.String("cache", e.Cache))
}

func (w *slogWriter) overflow(e Overflow) {
	if len(e.To) > 0 {
		w.log(slog.LevelWarn, "pending drop made coarser", w.names("keys", e.Keys), w.names("tags", e.Tags), w.names("to", e.To))
		return
	}
	w.log(slog.LevelError, "drop not kept", w.names("keys", e.Keys), w.names("tags", e.Tags))
}

func (w *slogWriter) drop(e Drop) {
	level, msg := slog.LevelDebug, "dropped"
	if e.Pending {
		level, msg = slog.LevelWarn, "drop pending"
	}
	if !w.enabled(level) {
		return
	}
	w.log(level, msg,
		w.names("keys", e.Keys), w.names("tags", e.Tags), slog.String("by", e.By),
		slog.Bool("own", e.Own), lagAttr(e), durationAttr("commit", e.Commit), errAttr(e.Err))
}

func (w *slogWriter) link(e Link) {
	if e.Up {
		w.log(slog.LevelInfo, "store link up", slog.Bool("tracks", e.Tracks))
		return
	}
	w.log(slog.LevelWarn, "store link down", errAttr(e.Err))
}

func (w *slogWriter) gap(e Gap) {
	switch part := slog.Int("part", e.Part); {
	case e.Healed:
		w.log(slog.LevelInfo, "missed log entries read again", part)
	case e.Lost:
		w.log(slog.LevelWarn, "missed log entries are lost", part)
	default:
		w.log(slog.LevelWarn, "log entries missed", part)
	}
}

func (w *slogWriter) epoch(e Epoch) {
	w.log(slog.LevelWarn, "new epoch",
		slog.Int("part", e.Part), slog.Uint64("epoch", e.Epoch), slog.String("why", e.Why))
}

func (w *slogWriter) trust(e Trust) {
	if e.Held {
		w.log(slog.LevelInfo, "trust regained", slog.Int("part", e.Part), slog.Duration("away", e.Since))
		return
	}
	w.log(slog.LevelWarn, "trust lost", slog.Int("part", e.Part), slog.Duration("held", e.Since), textAttr("source", e.Source))
}

func (w *slogWriter) breaker(e Breaker) {
	if e.Open {
		w.log(slog.LevelWarn, "store breaker open", errAttr(e.Cause))
		return
	}
	w.log(slog.LevelInfo, "store breaker closed", errAttr(e.Cause))
}

func (w *slogWriter) storeError(e StoreError) {
	w.log(slog.LevelWarn, "store operation failed", slog.String("op", e.Op), errAttr(e.Err))
}

func (w *slogWriter) mutated(e Mutated) {
	w.log(slog.LevelError, "shared value was changed", slog.String("cache", e.Cache), w.key(e.Key))
}

func (w *slogWriter) mismatch(e Mismatch) {
	if !w.enabled(slog.LevelWarn) {
		return
	}
	tags := make([]any, len(e.Tags))
	for i, t := range e.Tags {
		tags[i] = slog.Group(w.name(t.Tag), slog.Uint64("read", t.Read), slog.Uint64("stamp", t.Stamp), slog.Bool("known", t.Known))
	}
	var drop slog.Attr
	if d := e.LastDrop; d != nil {
		drop = slog.Group("last_drop", slog.String("name", w.name(d.Name)), slog.String("by", d.By), slog.Time("at", d.At))
	}
	w.log(slog.LevelWarn, "a served value differs from the source",
		slog.String("cache", e.Cache), w.key(e.Key), slog.String("at", e.Level.String()), slog.Duration("age", e.Age), slog.Duration("differs", e.Differs),
		slog.Bool("negative", e.Negative), textAttr("record", e.Record), slog.Group("tags", tags...), drop)
}

func (w *slogWriter) panic(e Panic) {
	w.log(slog.LevelError, "loader panicked",
		slog.String("cache", e.Cache), w.key(e.Key),
		slog.String("panic", fmt.Sprint(e.Value)), slog.String("stack", string(e.Stack)))
}

// Hooks carry no context: what they tell belongs to the cache rather than to one request.

func (w *slogWriter) enabled(level slog.Level) bool {
	return w.l.Enabled(context.Background(), level)
}

func (w *slogWriter) log(level slog.Level, msg string, attrs ...slog.Attr) {
	w.l.LogAttrs(context.Background(), level, msg, attrs...) //nolint:sloglint // the callers' messages are constants
}

// The zero slog.Attr is left out by handlers, which is how absent facts are written.

func (w *slogWriter) key(key string) slog.Attr {
	if key == "" {
		return slog.Attr{}
	}
	return slog.String("key", w.name(key))
}

func (w *slogWriter) names(attr string, names []string) slog.Attr {
	if len(names) == 0 {
		return slog.Attr{}
	}
	shown := make([]string, len(names))
	for i, n := range names {
		shown[i] = w.name(n)
	}
	return slog.Any(attr, shown)
}

// name returns a key or tag as it may be written.
func (w *slogWriter) name(name string) string {
	if w.plain {
		return name
	}
	sum := sha256.Sum256([]byte(name))
	return "#" + hex.EncodeToString(sum[:6]) // 48 bits: short to read, and unique among the keys of a log
}

func reasonAttr(r Reason) slog.Attr {
	if r == ReasonNone {
		return slog.Attr{}
	}
	return slog.String("reason", string(r))
}

func lagAttr(e Drop) slog.Attr {
	if e.Own {
		return slog.Attr{}
	}
	return slog.Duration("lag", e.Lag)
}

func durationAttr(name string, d time.Duration) slog.Attr {
	if d == 0 {
		return slog.Attr{}
	}
	return slog.Duration(name, d)
}

func flagAttr(name string, is bool) slog.Attr {
	if !is {
		return slog.Attr{}
	}
	return slog.Bool(name, true)
}

func textAttr(name, text string) slog.Attr {
	if text == "" {
		return slog.Attr{}
	}
	return slog.String(name, text)
}

func errAttr(err error) slog.Attr {
	if err == nil {
		return slog.Attr{}
	}
	return slog.Any("err", err)
}
