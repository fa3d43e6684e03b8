// Package store is the contract of the shared level: what the engine needs of a
// memory store, Redis or Valkey, and nothing else.
//
// A store holds two things. Entries are bytes at exactly the key the user sees;
// they change only by compare (Fill), so a load that a drop overtook can't write.
// The log is the chained record of drops, one per partition: every drop appends to
// it, raises the stamps of the tags it names, and is announced to whoever watches.
// Announcements may be lost, repeated or late; the chain (see [LogEntry]) shows it.
//
// A store holds no policy: TTLs, grace, retries of drops and trust live above it.
// The suite in storetest is the contract in executable form.
package store

import (
	"context"
	"errors"
	"time"

	"github.com/cespare/xxhash/v2"
)

// Errors that a store returns, wrapped with the step that failed.
var (
	// ErrUnavailable is returned at once, without asking the server, while the
	// store's breaker is open or no connection was made yet.
	ErrUnavailable = errors.New("store: unavailable")

	// ErrTimeout is returned when an operation took longer than the time budget.
	// What it asked for may still happen.
	ErrTimeout = errors.New("store: time budget exceeded")

	// ErrNoLog is returned by Head, Register, Tail and Drop when the partition has
	// no log: the server is new, or lost it. NewEpoch starts one.
	ErrNoLog = errors.New("store: partition has no log")

	// ErrHeadMoved is returned by NewEpoch when the log is not at the head that
	// the caller saw: somebody else started the epoch.
	ErrHeadMoved = errors.New("store: log head moved")

	// ErrBehind is returned by Drop when the log is older than what the caller
	// knows of it: the server lost its end. Nothing was appended.
	ErrBehind = errors.New("store: log is behind the caller")

	// ErrClosed is returned after Close.
	ErrClosed = errors.New("store: closed")
)

// A Store is one connection to a shared level. All methods are safe for concurrent
// use. No method waits for a reconnect, and none takes longer than the store's time
// budget; the caller's context can only shorten it.
type Store interface {
	// Now is the store's own clock, so that instances with different clocks agree on
	// the age of an entry. It costs no round trip: the store estimates it from
	// earlier answers, and falls back to the local clock.
	Now() time.Time

	// Read returns what the keys hold, in order. For plain keys it also finds out
	// the time they have left; record keys carry theirs inside.
	Read(ctx context.Context, keys []string, plain bool) ([]Value, error)

	// Claim looks each key up and tries to lease it. One Claim per request, in order. On the
	// same way it registers tags as Register does, and says in regs what came of that; neither
	// depends on the other.
	Claim(ctx context.Context, reqs []ClaimRequest, regs ...*Registration) []Claim

	// Fill stores the image of each request if the key still holds what its
	// lease observed. One error per request, in order: nil stored, ErrLeaseLost
	// refused, anything else unknown (it may have been stored or not).
	Fill(ctx context.Context, reqs []FillRequest) []error

	// Release gives a lease back without filling. A lease already lost is no error.
	Release(ctx context.Context, lease Lease) error

	// Write stores image at key unconditionally. Leases on the key are void after it.
	Write(ctx context.Context, key string, image []byte, ttl time.Duration) error

	// Partitions is the number of log partitions, fixed for a store. At least 1.
	Partitions() int

	// Drop first deletes d.Keys, with their leases, and then appends one entry to the
	// partition's log, raises the stamp of every tag of d.Tags that has one, and
	// announces the entry. It returns the entry as appended. After an error the
	// keys may be deleted already; repeating a drop is harmless.
	//
	// known is the latest head the caller has seen (zero if none): a log that is
	// behind it is refused with ErrBehind, one of another epoch is not.
	Drop(ctx context.Context, part int, d Drop, known Head) (LogEntry, error)

	// Head reads the end of a partition's log. It is also the probe: everything that was
	// announced of the partition before the server answered has been handed to the
	// Watcher before Head returns, unless it was lost. After the Heads of all partitions, the
	// same holds for all keys that were changed before the first was asked for.
	Head(ctx context.Context, part int) (Head, error)

	// Register reads the stamps of tags, creating a missing one at the log's
	// current position (never lower, since the lost one may have been that high). It is the
	// only way stamps are read.
	Register(ctx context.Context, part int, tags []string) (Head, []Pos, error)

	// Tail returns up to limit entries after pos in log order, as far as the server kept
	// them. It says nothing about what came before the first: check the chain. An entry that can't be read
	// ends the answer, and is ErrCorrupt if it would be the first.
	Tail(ctx context.Context, part int, after Pos, limit int) ([]LogEntry, error)

	// NewEpoch starts a new epoch if the log is still at seen (zero: there is none), at a position
	// above all that the caller knows. All entries of earlier epochs are invalid from then on.
	NewEpoch(ctx context.Context, part int, seen Head, above Pos) (LogEntry, error)

	// Watch registers w for what the store sees by itself. Its functions are called
	// one at a time, in the order in which the server sent the events, and must not block or
	// call the store. The returned function ends it and returns after the last call.
	Watch(w Watcher) (stop func())

	// Close releases everything. Operations in flight fail with ErrClosed.
	Close() error
}

// A Clocked store knows how good its estimates of clocks are.
type Clocked interface {
	// Clock is the clock that the positions of a partition's log are taken from, as estimated from earlier answers, and how far off that
	// may be at most, if the clocks themselves run at the right pace. ok is false before there was an answer. It costs no round trip.
	Clock(part int) (now time.Time, off time.Duration, ok bool)
}

// A Value is what a key held. A nil Image means that the key is absent; for a plain
// key that is leased but not filled, too.
type Value struct {
	Image []byte
	TTL   time.Duration // plain keys only: time left; zero if the key has no expiry
}

// An ID names one record or one lease: random, never reused.
type ID [16]byte

// A ClaimRequest asks for the lease of one key.
type ClaimRequest struct {
	Key string
	ID  ID            // of the lease, chosen by the caller
	TTL time.Duration // of the lease: a holder that dies delays others by at most this

	// Seen is the Identity of what the caller found at the key and wants to replace;
	// empty if the key was absent.
	Seen Identity

	// Refresh leaves what was seen readable until the fill. The claim then fails if
	// the key is absent. Without it the claim replaces what was seen by a lease record.
	Refresh bool

	// Plain marks a key of a plain namespace: bare values, leased by an empty string.
	Plain bool
}

// A Claim is the outcome of a claim.
//
//	Leased   the caller must Fill or Release Lease
//	Held     the key holds Image, which is not what the caller saw
//	Busy     another's lease is there, for at most Wait
//	Gone     (Refresh only) the key is absent: it was dropped or evicted
//	Failed   Err says why; a lease may have been taken all the same
type Claim struct {
	Outcome Outcome
	Lease   Lease         // Leased
	Image   []byte        // Held
	Wait    time.Duration // Busy: the rest of that lease
	Err     error         // Failed
}

// An Outcome is how a claim ended.
type Outcome uint8

// The outcomes of a claim; see [Claim].
const (
	Failed Outcome = iota
	Leased
	Held
	Busy
	Gone
)

// A Registration asks Claim for the stamps of Tags, all of one partition. Claim sets the rest.
type Registration struct {
	Part   int
	Tags   []string
	Head   Head
	Stamps []Pos
	Err    error
}

// A Lease is the right to fill one key. It holds only as long as the key holds what it
// held when the lease was granted: any drop, write or expiry voids it.
type Lease struct {
	Key     string
	ID      ID
	Seen    Identity // Refresh: what must still be there at the fill
	Refresh bool
	Plain   bool
}

// ErrLeaseLost is returned by Fill when the key no longer holds what the lease
// observed. The caller may still return what it loaded; it was just not stored.
var ErrLeaseLost = errors.New("store: lease lost")

// A FillRequest stores Image under a lease.
type FillRequest struct {
	Lease Lease
	Image []byte
	TTL   time.Duration
}

// A Pos is a position in a partition's log. Positions grow with every entry and
// are never used twice, not even by a log that lost its end: the server takes
// the larger of its clock in microseconds and the last position plus one. They
// stay below 2^53.
type Pos uint64

// A Head is the end of a log.
type Head struct {
	Epoch uint64 // new whenever history was lost; never zero. See EpochAt
	Pos   Pos    // of the last entry
	Nonce uint64 // of the last entry; random
}

// EpochAt is the number of an epoch that begins at pos: later epochs have larger numbers. random keeps
// apart what began at the same position on servers that know nothing of each other.
func EpochAt(pos Pos, random uint64) uint64 { return uint64(pos)<<epochRandom | random%EpochRandom }

const (
	epochRandom = 11 // bits

	// EpochRandom is the number of epochs that can begin at a position.
	EpochRandom = 1 << epochRandom
)

// Began is the position at which the epoch of h began.
func (h Head) Began() Pos { return Pos(h.Epoch >> epochRandom) }

// A Drop is what one log entry makes invalid.
type Drop struct {
	Keys []string
	Tags []string
	By   string // who dropped: the name of the instance, or ByPump. For people and figures. No spaces.
}

// PartitionOf maps the name of a key or tag to one of n partitions.
func PartitionOf(name string, n int) int {
	if n == 1 {
		return 0
	}
	return int(xxhash.Sum64String(name) % uint64(n))
}

// A LogEntry is one link of the chain: Prev and PrevNonce are the position and
// nonce of the entry before it.
type LogEntry struct {
	Head
	Prev      Pos
	PrevNonce uint64
	NewEpoch  bool // this entry began Head.Epoch; it carries no drop
	Drop
}

// A Watcher receives what a store sees by itself. Any function may be nil.
type Watcher struct {
	// Logged is called for each announced log entry, those of this store included.
	Logged func(part int, e LogEntry)

	// Changed is called when another client (never this store) wrote, deleted or expired
	// keys that this store has read, claimed or filled since they last changed; nil keys
	// means that any key may have changed. Only a store whose link Tracks does so.
	Changed func(keys []string)

	// Link is called when the link to the server comes up or goes down. Between a
	// down and the next up announcements and changes may be lost. A store of several
	// servers is up while it is linked to all of them, and tells each loss, also while it is down.
	Link func(Link)

	// Breaker is called when the store stops asking the server (open) or asks again.
	Breaker func(open bool, cause error)
}

// A Link describes the connection by which a store watches.
type Link struct {
	Up     bool
	Tracks bool  // Changed is called for foreign writes
	Err    error // why it went down

	// Server names the history that the server keeps: while it is the same, from link to link, the server didn't
	// restart and no other took its place, so what a log no longer has was cut off for its length. Empty if that isn't known.
	Server string
}
