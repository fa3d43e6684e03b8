// Package observe says what the engine tells about itself: one struct of optional
// functions, and one closed list of reason codes. Metrics, logs, headers and the CLI
// use the same words.
package observe

import "time"

// A Reason says why something was not served from the cache, or not stored in it. The list is
// closed: header, log, metric, CLI and UI use the same codes.
type Reason string

// Why a read was not answered by a level.
const (
	ReasonNone        Reason = ""
	ReasonAbsent      Reason = "absent"      // never stored, evicted, expired in the store, or deleted
	ReasonExpired     Reason = "expired"     // past its TTL and its stale windows
	ReasonStale       Reason = "stale"       // past its TTL, within a stale window
	ReasonDropped     Reason = "dropped"     // the key, or a tag it depends on, was dropped
	ReasonEpoch       Reason = "epoch"       // stored in an earlier epoch: history was lost since
	ReasonUnproven    Reason = "unproven"    // L1 only: the link can't vouch for it within StaleAtMost
	ReasonUncertified Reason = "uncertified" // nobody says that the changes of a database (Options.Sources) up to StaleAtMost ago were applied
	ReasonBehind      Reason = "behind"      // the reader's token asks for changes that aren't known to have been applied
	ReasonCorrupt     Reason = "corrupt"     // the bytes at the key are damaged or not a record
	ReasonVersion     Reason = "version"     // a record of another wire version
	ReasonSchema      Reason = "schema"      // stored by a program whose type of the value differs
	ReasonCodec       Reason = "codec"       // stored with another codec, or the codec refused it
	ReasonPending     Reason = "pending"     // a drop of it has not reached the store yet
	ReasonStoreError  Reason = "store-error" // the store failed or was too slow
	ReasonLongKey     Reason = "long-key"    // the key is longer than MaxKey: not cached at all
)

// Why a loaded value was not stored (or not in the shared level).
const (
	ReasonLeaseLost Reason = "lease-lost"   // dropped, written or expired while it was loaded
	ReasonLateTag   Reason = "late-tag"     // a tag found by the load may have been dropped meanwhile
	ReasonBadTag    Reason = "bad-tag"      // one of its tags is empty, too long or has blanks: nobody could drop it
	ReasonNoStore   Reason = "no-store"     // the loader asked not to store it
	ReasonNoLease   Reason = "no-lease"     // loaded without a lease, since the store didn't answer
	ReasonEncode    Reason = "encode-error" // the codec refused the value
	ReasonTooLarge  Reason = "too-large"    // the value is over MaxValue; of a read: what somebody else stored is
	ReasonManyTags  Reason = "many-tags"    // it has more than MaxTags tags

	// Why not, for reads through a transaction's context: what it dropped is not read, what it loaded is not stored.
	ReasonTransaction Reason = "transaction"
)

// Why the source was not asked.
const (
	ReasonOverload   Reason = "overload"    // too many loads are under way, and wait
	ReasonSourceDown Reason = "source-down" // it failed again and again a moment ago
)

// Why a hit could not be verified (Config.Verify), beside some of the above.
const (
	ReasonLoadError Reason = "load-error" // the loader failed
	ReasonReplaced  Reason = "replaced"   // the entry was replaced, evicted or deleted by somebody else meanwhile: it isn't served any more
	ReasonUnstable  Reason = "unstable"   // the source doesn't answer the same when it is asked twice, or the codec writes one value in several ways
	ReasonNoLoader  Reason = "no-loader"  // the cache has no loader of its own, and the caller gave none
)

// A Level is where an answer came from.
type Level uint8

// The levels.
const (
	LevelNone   Level = iota
	LevelL1           // this process
	LevelL2           // the shared store
	LevelSource       // loaded, by this caller or one that it joined
)

// String returns "none", "l1", "l2" or "source".
func (l Level) String() string {
	switch l {
	case LevelL1:
		return "l1"
	case LevelL2:
		return "l2"
	case LevelSource:
		return "source"
	default:
		return "none"
	}
}

// Hooks are called synchronously, some on the path of a hit, and should return fast. Any
// may be nil. They must not call the cache that calls them, nor wait for the store: word of a lost link comes before
// the next link is used. Join two with [Tee].
type Hooks struct {
	Hit        func(Hit)
	Miss       func(Miss)
	Load       func(Load)
	Fill       func(Fill)
	Shed       func(Shed)
	Source     func(Source)
	Drop       func(Drop)
	Overflow   func(Overflow)
	Link       func(Link)
	Gap        func(Gap)
	Epoch      func(Epoch)
	Trust      func(Trust)
	Breaker    func(Breaker)
	StoreError func(StoreError)
	Mutated    func(Mutated)
	Mismatch   func(Mismatch)
	Panic      func(Panic)
}

// A Hit is a read answered by L1 or L2.
type Hit struct {
	Cache, Key string // Key is empty on an L1 hit by key of a type other than string
	Level      Level
	Age        time.Duration // since the load began
	Stale      bool          // past its TTL, served within a stale window
	Negative   bool
}

// A Miss is a read that a level could not answer.
type Miss struct {
	Cache, Key string
	Level      Level
	Reason     Reason
}

// A Load is a call of the loader that ended.
type Load struct {
	Cache, Key string
	Took       time.Duration
	Refresh    bool // in the background, while the old value is served
	Verify     bool // only to compare with what is served (Config.Verify)
	Err        error
}

// A Shed is a load that was not tried.
type Shed struct {
	Cache, Key string // Key is one of them for a batch
	Reason     Reason
	Refresh    bool
}

// A Source is the breaker of a cache's source opening or closing.
type Source struct {
	Cache string
	Open  bool  // after so many failures in a row it isn't asked for a while
	Cause error // the last of them
}

// A Fill is the attempt to store what a load brought.
type Fill struct {
	Cache, Key string
	Stored     bool
	Reason     Reason // why not
	Bytes      int
}

// A Drop is an invalidation made by this instance, or heard from another.
type Drop struct {
	Keys, Tags []string
	By         string // the instance that dropped
	Own        bool
	Pending    bool          // it has not reached the store yet
	Lag        time.Duration // heard drops: from the store's clock at the drop to now
	Commit     time.Duration // drops made of a database's changes: from the commit, by its clock, to now; zero if that isn't known
	Err        error         // why it is pending
}

// An Overflow is a drop by this instance for which the outbox has no room as it is.
type Overflow struct {
	Keys, Tags []string // what was dropped
	To         []string // the coarser tags that are dropped instead; none: it is not kept, and the caller was told
}

// A Link is the link to the store going up or down.
type Link struct {
	Up, Tracks bool
	Err        error
}

// A Gap is a log entry that doesn't follow the last one seen: something was lost.
type Gap struct {
	Part   int
	Healed bool // the missing entries were read from the log
	Lost   bool // the log no longer has them: everything is verified anew
}

// An Epoch is the start of a new epoch: all that was stored before is invalid.
type Epoch struct {
	Part  int
	Epoch uint64
	Why   string
}

// Trust is the mirror's proof of completeness being lost or regained.
type Trust struct {
	Part  int
	Held  bool
	Since time.Duration // how long it had been the other way

	// Source is one of Options.Sources: lost since nobody certifies it, though the store is followed. Empty if that isn't why.
	Source string
}

// A Breaker is the store's breaker opening or closing.
type Breaker struct {
	Open  bool
	Cause error
}

// A StoreError is a failed store operation that was not fatal to the request.
type StoreError struct {
	Op  string
	Err error
}

// Mutated is an L1 value that a caller changed although values are shared.
type Mutated struct{ Cache, Key string }

// A Mismatch is an entry that is served as fresh though the source says something else, and has for longer than StaleAtMost: a drop
// was lost, or never made. It is found by Config.Verify.
type Mismatch struct {
	Cache, Key string
	Level      Level         // that answered the hit
	Age        time.Duration // since the load of what is served began
	Differs    time.Duration // since the source was first found to say something else
	Negative   bool          // what is served is that there is nothing
	Record     string        // the id of the record in L2, in hex; empty if it isn't there
	Tags       []TagState
	LastDrop   *LastDrop // the last drop of the key, or of one of its tags, that this instance knows of; nil: none lately
}

// A TagState is a tag of an entry, as the entry and this instance know it. Positions are of the log; see store.Pos.
type TagState struct {
	Tag   string
	Read  uint64 // the read position of the entry's load
	Stamp uint64 // the tag's last drop is there or before: at most Read, or the entry would not be served
	Known bool
}

// A LastDrop is who dropped a key or tag, and when by the store's clock.
type LastDrop struct {
	Name string
	By   string
	At   time.Time
}

// A Panic is a loader's panic, contained.
type Panic struct {
	Cache, Key string
	Value      any
	Stack      []byte
}
