package freshet

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/freshetdev/freshet/codec"
	"github.com/freshetdev/freshet/observe"
)

// Options configure a Client. The zero value works.
type Options struct {
	// Name tells this instance from others in logs and explanations. Letters, digits and
	// "-._"; default: host name, process id and a random part.
	Name string

	// Prefix is put before every key and every name that freshet keeps in the store, followed by a
	// colon. Clients with different prefixes share nothing. Default: none.
	Prefix string

	// StaleAtMost bounds what a hit may miss: drops that the store acknowledged longer ago
	// are seen, whatever happens to links and messages. Smaller values mean more
	// probes (ten in that time, between every 10 and 100 ms) and less patience when the
	// store hangs. Default 1 s; at least 50 ms.
	StaleAtMost time.Duration

	// Sources are the databases, by their cdc.Options.Name, from which values are loaded and whose changes a pump (package cdc)
	// drops. StaleAtMost then bounds the distance to the databases themselves: an entry counts as proven only up to the
	// time up to which all of them are certified. Without a certificate (no pump runs, it is stuck, a commit waits for
	// a standby) a loaded value is served for StaleAtMost from the start of its load, and then loaded again, by one instance
	// (reason "uncertified"). Certificates come every cdc.Options.Tick, so StaleAtMost should be 4 ticks or more.
	// One round trip more in each probe for each of them. Default: none.
	Sources []string

	// TokenWait is how long a read with a token ([Client.WithToken]) waits to hear that the changes up to it have been applied, before it
	// loads for itself. A pump says so every cdc.Options.Tick. Default 20 ms; negative: not at all.
	TokenWait time.Duration

	// MaxLoads bounds the loads under way on this instance, over all caches without
	// a limit of their own. Further loads wait their turn within their time: in order, but those in the background
	// after those that somebody waits for; and these take at most three quarters of the places. Loads in a [Tx] don't
	// count, and don't wait. Default 512.
	MaxLoads int

	// MaxQueued bounds the loads that wait for their turn. Beyond it the source is not asked: Get returns an old value if
	// Stale.IfError allows, else an error that matches ErrOverloaded. Refreshes in the background are the first to
	// be given up. Default 10,000; negative: nothing waits.
	MaxQueued int

	// Pending is what drops do that the store doesn't acknowledge at once. Default PendingReturn; [WithPending] says
	// otherwise for single calls.
	Pending Pending

	// MaxPending bounds the keys that wait to be dropped, and the tags. Beyond it the drop of a key becomes one of its
	// whole cache, and that of a tag one of its table; what has neither (keys of Plain caches and of
	// none, and tags of ever more tables, of which as many are kept again) is not kept, and the error matches ErrNotKept. The
	// same bound holds for what a [Tx] collects. Default 10,000.
	MaxPending int

	// MaxKey is the size of the longest key in bytes, with its cache's name, that is cached or that a pending drop may have. What
	// is asked for by a longer one is loaded each time, by callers at the same time together. Default 16,384.
	MaxKey int

	// StoreBudget bounds every operation of the shared store. Default 50 ms.
	StoreBudget time.Duration

	// Hooks are told what happens. See [observe.Slog] for a ready-made listener. A Hit hook makes every hit
	// take the longer path, about twice as long; leave it nil if Stats is enough. Hooks run in the goroutine that
	// has something to tell: they should be quick, and must not call the client.
	Hooks observe.Hooks

	// ExactClock makes every hit read the system's clock, not one that is up to a millisecond
	// late. Needed in testing/synctest bubbles, where hours pass in no time.
	ExactClock bool
}

func (o Options) withDefaults() (Options, error) {
	o.Name = cmp.Or(o.Name, defaultName())
	o.StaleAtMost = cmp.Or(o.StaleAtMost, time.Second)
	o.TokenWait = cmp.Or(o.TokenWait, 20*time.Millisecond)
	o.MaxLoads = cmp.Or(o.MaxLoads, 512)
	o.StoreBudget = cmp.Or(o.StoreBudget, 50*time.Millisecond)
	o.MaxQueued = cmp.Or(o.MaxQueued, 10_000)
	o.MaxPending = cmp.Or(o.MaxPending, maxPending)
	o.MaxKey = cmp.Or(o.MaxKey, 16<<10)
	switch {
	case o.StaleAtMost < 50*time.Millisecond:
		return o, fmt.Errorf("freshet: Options.StaleAtMost is %v; want at least 50ms", o.StaleAtMost)
	case slices.ContainsFunc(o.Sources, func(s string) bool { return !sourceName(s) }):
		return o, fmt.Errorf("freshet: Options.Sources are %q; want names of letters, digits, dots, dashes and underscores", o.Sources)
	case o.MaxLoads < 0:
		return o, fmt.Errorf("freshet: Options.MaxLoads is %d; want more than zero", o.MaxLoads)
	case o.MaxPending < 0:
		return o, fmt.Errorf("freshet: Options.MaxPending is %d; want more than zero", o.MaxPending)
	case o.MaxKey < 0:
		return o, fmt.Errorf("freshet: Options.MaxKey is %d; want more than zero", o.MaxKey)
	case o.Pending > PendingFail:
		return o, fmt.Errorf("freshet: Options.Pending is %d; want PendingReturn, PendingWait or PendingFail", o.Pending)
	case o.StoreBudget < time.Millisecond:
		return o, fmt.Errorf("freshet: Options.StoreBudget is %v; want at least 1ms", o.StoreBudget)
	case strings.ContainsAny(o.Prefix, "{} \n\r\t"):
		return o, fmt.Errorf("freshet: Options.Prefix is %q; want no braces and no white space", o.Prefix)
	case strings.Trim(o.Name, nameChars) != "":
		return o, fmt.Errorf("freshet: Options.Name is %q; want letters, digits and -._ only", o.Name)
	}
	return o, nil
}

func sourceName(s string) bool { return s != "" && len(s) <= 100 && strings.Trim(s, nameChars) == "" }

const nameChars = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-._"

// Stale is how long after its fresh time an entry may still be served, and why. Entries known
// to be dropped are never served.
type Stale struct {
	// WhileRevalidate serves the old value at once while one instance loads a new one in
	// the background (RFC 5861 §3). Zero means never.
	WhileRevalidate time.Duration

	// IfError serves the old value when the load fails or is slower than SoftTimeout
	// (RFC 5861 §4). Zero means never.
	IfError time.Duration

	// ErrorIs says which errors IfError covers, and BreakAfter counts: those that are the source's failure, not
	// its answer. Default: all but ErrNotFound. That the source was not asked (ErrOverloaded, ErrSourceDown) is always covered.
	ErrorIs func(error) bool

	// RetryAfter is how long a value served by IfError is served without asking the source again.
	// Default 1 s.
	RetryAfter time.Duration
}

// Config defines a cache. Name, TTL and one of Load and LoadMany are usually all that is given.
type Config[K comparable, V any] struct {
	// Name is what the keys begin with: Name "user" and key 123 make "user:123". It also is
	// the namespace that Clear drops. Required; letters, digits and "-._".
	Name string

	// TTL is how long a value is fresh, counted from the start of its load. Required; a load can
	// set another for its entry. Here as elsewhere, more than 100 years are 100 years.
	TTL time.Duration

	// Jitter is the share of the TTL that is taken away at random, so that entries stored
	// together don't end together. Default 0.1; negative means none.
	Jitter float64

	// Stale is how long a value may be served after that. Default: not at all.
	Stale Stale

	// NegativeTTL is how long it is remembered that the source has nothing. Default: TTL, at
	// most 10 s. Negative: not at all.
	NegativeTTL time.Duration

	// EarlyRefresh weighs how early a value that is read often is loaded anew in the background: one
	// means the optimal XFetch of Vattani et al. (VLDB 2015), in which the chance grows with the
	// measured cost of the load as the end of the fresh time comes near. Default 1; negative means never.
	EarlyRefresh float64

	// Tags are what the entry of a key depends on, besides the namespace. A loader can add more. A tag
	// has 1 to 512 bytes without blanks and control characters; [Tag] makes such names of any parts.
	Tags func(K) []string

	// Load asks the source for one key.
	Load func(ctx context.Context, key K, l *Load) (V, error)

	// LoadMany asks the source for several keys. What it leaves out of the map is not found. If
	// only LoadMany is given, single keys are loaded by it too; if only Load is
	// given, GetMany calls it side by side.
	LoadMany func(ctx context.Context, keys []K, l *BatchLoad[K]) (map[K]V, error)

	// Key makes the part of the string key after "Name:". It must be injective. Default: text
	// and numbers as they are, structs field by field, escaped.
	Key func(K) string

	// Codec makes bytes of values for the shared level. Default codec.JSON.
	Codec codec.Codec[V]

	// Schema, if not zero, takes the place of the fingerprint of V's structure: entries stored
	// under another one are misses.
	Schema uint64

	// CompressOver is the encoded size in bytes from which values are compressed. Default
	// 4096; negative means never.
	CompressOver int

	// LoadTimeout ends a load, and the wait for its place among MaxLoads. Default 10 s.
	LoadTimeout time.Duration

	// SoftTimeout is how long a caller waits for a load when there is an old value to
	// serve instead (see Stale.IfError). The load goes on. Default: as long as the load takes.
	SoftTimeout time.Duration

	// LeaseTime is how long other instances wait for one that was given the right to load,
	// and died. Default: LoadTimeout plus a second.
	LeaseTime time.Duration

	// MaxLoads bounds the loads of this cache under way on this instance, apart from
	// those of other caches. Default: the client's limit, shared.
	MaxLoads int

	// MaxQueued bounds the loads that wait for one of MaxLoads; see [Options].MaxQueued. It goes
	// with a MaxLoads of this cache's own. Default: the client's number.
	MaxQueued int

	// BreakAfter, if positive, is the number of loads that fail in a row after which the source isn't asked for BreakFor;
	// then one load at a time tries it, until one ends well. Meanwhile Get returns an old value if Stale.IfError
	// allows, else an error that matches ErrSourceDown. Timeouts count, canceled loads don't; for others see Stale.ErrorIs.
	// Loads in a [Tx] neither count nor are refused. Default: never, since only you know whether an
	// error for one key says something about the others.
	BreakAfter int

	// BreakFor is how long the source isn't asked then. Default 1 s.
	BreakFor time.Duration

	// MaxEntries bounds L1, the copy in this process. Default 10,000; negative: no L1.
	MaxEntries int

	// MaxBytes, if positive, bounds L1 by the sum of Weigh instead.
	MaxBytes int64

	// MaxValue is the size in bytes of the largest value, encoded and not compressed, that is cached. Larger ones are
	// returned and not stored, and those that others stored are misses, both for the reason "too-large".
	// Default 8 MiB; negative: no limit.
	MaxValue int

	// MaxTags is the number of tags that an entry may have, its namespace and the tables of its tags ("users!")
	// included. With more, a value is returned and not stored, for the reason "many-tags": each tag is looked at on a hit and
	// is a key in the store. Default 1,000.
	MaxTags int

	// Weigh estimates the bytes of a value in memory. Default: the encoded size.
	Weigh func(V) int

	// L1TTL bounds the time in L1 before the shared level is asked again. Default: the fresh
	// time; where the store can't tell of foreign writes (no RESP3 tracking), at most StaleAtMost.
	L1TTL time.Duration

	// Plain keeps bare values in the shared level, as SET key value EX does, so that
	// programs in any language read and write the same keys. Tags, stale windows, negative
	// entries and Clear are not possible then.
	Plain bool

	// Clone copies a value. Without it all callers share one value, which they must not
	// change; with it each gets its own.
	Clone func(V) V

	// Verify is the share of fresh hits, in L1 and L2, that are compared with the source: 0.001 is one in a thousand. Each is loaded
	// once more in the background, with the loader of the hit, and stored nowhere; what differs is looked at again after twice
	// StaleAtMost, and counts as a mismatch if it is still served then (Stats.Verification, Hooks.Mismatch). It costs the source that share of the hits
	// in loads, at most 8 at a time, one for each key, and none while half of MaxLoads are taken or anybody waits. The loader must
	// not change anything. Default 0: none.
	Verify float64

	// Equal compares two values for Verify. Default: their encoded bytes, and where these differ, the values that they decode to
	// (reflect.DeepEqual), so that maps may be written in any order. Give it if values have parts that differ with each load, such as the
	// time of the answer.
	Equal func(a, b V) bool

	// CheckMutation compares shared values with their encoded form at every hit, and
	// reports those that were changed (Hooks.Mutated). For tests: it costs an encoding a hit.
	CheckMutation bool
}

func (c Config[K, V]) withDefaults() (Config[K, V], error) {
	c.Jitter = cmp.Or(c.Jitter, 0.1)
	c.Jitter = max(c.Jitter, 0)
	c.EarlyRefresh = max(cmp.Or(c.EarlyRefresh, 1), 0)
	c.LoadTimeout = cmp.Or(c.LoadTimeout, 10*time.Second)
	c.LeaseTime = cmp.Or(c.LeaseTime, c.LoadTimeout+time.Second)
	c.MaxEntries = cmp.Or(c.MaxEntries, 10_000)
	c.CompressOver = cmp.Or(c.CompressOver, 4096)
	c.BreakFor = min(cmp.Or(c.BreakFor, time.Second), forever)
	c.MaxTags = cmp.Or(c.MaxTags, 1000)
	if c.MaxValue = cmp.Or(c.MaxValue, 8<<20); c.MaxValue < 0 || c.MaxValue > maxUnpacked {
		c.MaxValue = maxUnpacked
	}
	if c.NegativeTTL == 0 {
		c.NegativeTTL = min(c.TTL, 10*time.Second)
	}
	if c.Stale.ErrorIs == nil {
		c.Stale.ErrorIs = func(error) bool { return true }
	}
	c.Stale.RetryAfter = min(cmp.Or(c.Stale.RetryAfter, time.Second), forever)
	c.TTL, c.NegativeTTL, c.L1TTL, c.LeaseTime = min(c.TTL, forever), min(c.NegativeTTL, forever), min(c.L1TTL, forever), min(c.LeaseTime, forever)
	if c.Codec == nil {
		c.Codec = codec.JSON[V]()
	}
	if c.Schema == 0 {
		c.Schema = codec.Fingerprint[V]()
	}
	bad := func(format string, args ...any) (Config[K, V], error) {
		return c, fmt.Errorf("freshet: cache %q: %w", c.Name, fmt.Errorf(format, args...))
	}
	switch {
	case c.Name == "":
		return c, errors.New("freshet: Config.Name is empty; want a name such as \"user\"")
	case strings.Trim(c.Name, nameChars) != "":
		return bad("Name has other characters than letters, digits and -._")
	case c.Name == "freshet":
		return bad("Name is kept for freshet's own keys")
	case c.TTL <= 0:
		return bad("TTL is %v; want more than zero (a load can set another for its entry)", c.TTL)
	case c.Jitter >= 1 || math.IsNaN(c.Jitter):
		return bad("Jitter is %v; want less than 1", c.Jitter)
	case math.IsNaN(c.EarlyRefresh) || math.IsInf(c.EarlyRefresh, 0):
		return bad("EarlyRefresh is %v; want a number", c.EarlyRefresh)
	case c.Stale.WhileRevalidate < 0 || c.Stale.IfError < 0 || c.Stale.RetryAfter < 0:
		return bad("Stale has a negative duration: %v, %v, %v", c.Stale.WhileRevalidate, c.Stale.IfError, c.Stale.RetryAfter)
	case c.LoadTimeout < 0 || c.SoftTimeout < 0 || c.LeaseTime < 0 || c.L1TTL < 0:
		return bad("negative LoadTimeout, SoftTimeout, LeaseTime or L1TTL: %v, %v, %v, %v", c.LoadTimeout, c.SoftTimeout, c.LeaseTime, c.L1TTL)
	case c.Verify < 0 || c.Verify > 1 || math.IsNaN(c.Verify):
		return bad("Verify is %v; want a share of the hits, from 0 to 1", c.Verify)
	case c.MaxLoads < 0:
		return bad("MaxLoads is %d; want zero or more", c.MaxLoads)
	case c.MaxQueued != 0 && c.MaxLoads == 0:
		return bad("MaxQueued is %d without a MaxLoads of its own", c.MaxQueued)
	case c.BreakAfter < 0 || c.BreakFor < 0:
		return bad("BreakAfter is %d, BreakFor %v; want zero or more", c.BreakAfter, c.BreakFor)
	case c.MaxTags < 0:
		return bad("MaxTags is %d; want more than zero", c.MaxTags)
	case c.Plain && c.Tags != nil:
		return bad("Plain and Tags exclude each other: %w", ErrPlain)
	case c.Plain && (c.Stale.WhileRevalidate > 0 || c.Stale.IfError > 0):
		return bad("Plain and Stale exclude each other: %w", ErrPlain)
	}
	return c, nil
}
