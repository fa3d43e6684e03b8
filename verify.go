package freshet

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"reflect"
	"sync"
	"sync/atomic"
	"time"

	"github.com/freshetdev/freshet/internal/mirror"
	"github.com/freshetdev/freshet/observe"
	"github.com/freshetdev/freshet/store"
)

// Verification is what came of comparing hits with the source (Config.Verify).
type Verification struct {
	// Verified are the hits that were compared with what the source says: those that agreed, InFlight and Mismatched.
	Verified uint64

	// InFlight differed, and were dropped within the time in which every drop is to be known here, or a little later: Late is how long after
	// the source had said something else.
	InFlight uint64
	Late     observe.Histogram

	// Mismatched differed, and were still served as fresh when every drop that was in the store by the time they were compared must have
	// been known, and for as long again: a drop was lost, or never made. Hooks.Mismatch has each.
	Mismatched uint64

	// Unverifiable counts by reason the hits that were picked and say nothing: the source wasn't asked ("overload", "source-down",
	// "no-loader"), gave no answer that could be compared ("load-error", "no-store", "encode-error", "unstable"), or the entry differed and was not served for long
	// enough to tell why ("expired", "replaced", "epoch", "unproven", "uncertified", "store-error").
	Unverifiable map[observe.Reason]uint64
}

// FreshNines says how fresh hits are, in nines: 3 means that one in a thousand differs from the source though it should not.
// It is -log10(Mismatched/Verified), which takes ten mismatches or more to be a good estimate.
//
// While there are none, all that is known is a lower bound, and atLeast says so: with 95 % confidence the share is at most
// 3/Verified (the "rule of three"; Hanley and Lippman-Hand, "If nothing goes wrong, is everything all right?", JAMA 249, 1983). So three
// nines take 3,000 hits without a mismatch, and six take three million.
//
// It speaks of the hits that could be verified, and of what the loader can see: a loader that asks a lagging replica or another cache
// is compared with that.
func (v Verification) FreshNines() (nines float64, atLeast bool) {
	switch {
	case v.Mismatched > 0:
		return max(math.Log10(float64(v.Verified)/float64(v.Mismatched)), 0), false
	case v.Verified > 3:
		return math.Log10(float64(v.Verified) / 3), true
	}
	return 0, true
}

func (v *Verification) add(o *Verification) {
	v.Verified += o.Verified
	v.InFlight += o.InFlight
	v.Mismatched += o.Mismatched
	v.Late.Add(&o.Late)
	if v.Unverifiable == nil && len(o.Unverifiable) > 0 {
		v.Unverifiable = make(map[observe.Reason]uint64)
	}
	for reason, n := range o.Unverifiable {
		v.Unverifiable[reason] += n
	}
}

// A verifier compares some of a cache's fresh hits with the source. An entry is
//
//	loaded again     the same                              verified
//	                 it differs: wait twice StaleAtMost    below
//	wait             dropped meanwhile                     in flight
//	                 ended, or nothing vouches for it      unverifiable
//	                 still served                          below
//	loaded again     the same: the source went back        unverifiable
//	                 twice different answers               unverifiable
//	                 it differs                            mismatched
//
// After StaleAtMost every drop is known here that the store had when the first load ended. The same time again is for whoever
// changed the source to make the drop.
type verifier struct {
	share float64

	mu    sync.Mutex
	under map[string]struct{} // keys that are being verified; guarded by mu

	verified, inFlight, mismatched atomic.Uint64
	unverifiable                   [len(reasons)]atomic.Uint64
	late                           observe.Recorder
}

// verifyPlaces is how many entries of a cache are verified at a time, those that are waited for included. It is only a bound: what a share of the
// hits costs the source is for Config.Verify to say.
const verifyPlaces = 8

func newVerifier(share float64) *verifier {
	if share == 0 {
		return nil
	}
	return &verifier{share: share, under: make(map[string]struct{})}
}

// begin takes one of the places for key, if there is one and the key has none.
func (v *verifier) begin(key string) bool {
	v.mu.Lock()
	defer v.mu.Unlock()
	if _, twice := v.under[key]; twice || len(v.under) >= verifyPlaces {
		return false
	}
	v.under[key] = struct{}{}
	return true
}

func (v *verifier) end(key string) {
	v.mu.Lock()
	delete(v.under, key)
	v.mu.Unlock()
}

func (v *verifier) cannot(reason observe.Reason) { v.unverifiable[numberOf(reason)].Add(1) }

func (v *verifier) stats() (out Verification) {
	if v == nil {
		return out
	}
	out.InFlight, out.Mismatched, out.Late = v.inFlight.Load(), v.mismatched.Load(), v.late.Histogram()
	out.Verified, out.Unverifiable = v.verified.Load(), byReason(&v.unverifiable)
	return out
}

func (c *Cache[K, V]) verification() Verification { return c.verifier.stats() }

// verify compares some of the hits with the source, in the background; c.verifier must not be nil.
func (c *Cache[K, V]) verify(ctx context.Context, e *entry[K, V], level observe.Level, load loader[V]) {
	v := c.verifier
	if rand.Float64() >= v.share {
		return
	}
	switch {
	case load == nil && c.cfg.Load == nil && c.cfg.LoadMany == nil:
		v.cannot(observe.ReasonNoLoader)
		return
	case !v.begin(e.name):
		v.cannot(observe.ReasonOverload)
		return
	}
	lctx, cancel := c.loadContext(ctx)
	if !c.client.background(func() {
		defer cancel()
		defer v.end(e.name)
		if reason := c.compare(lctx, e, level, load); reason != observe.ReasonNone && lctx.Err() == nil {
			v.cannot(reason)
		}
	}) {
		cancel()
		v.end(e.name)
	}
}

// compare verifies an entry, and returns why it can't.
func (c *Cache[K, V]) compare(ctx context.Context, e *entry[K, V], level observe.Level, load loader[V]) observe.Reason {
	v := c.verifier
	first, reason := c.reload(ctx, e, load)
	if reason != observe.ReasonNone {
		return reason
	}
	served := answer[V]{value: e.value, negative: e.negative}
	if reason := c.encodeAnswer(&served); reason != observe.ReasonNone {
		return reason
	}
	if c.same(served, first) {
		v.verified.Add(1)
		return observe.ReasonNone
	}
	since := c.client.clock.Exact()
	if dropped, reason := c.outlasts(ctx, e, since, 2*c.staleAtMost); dropped {
		v.late.Record(time.Duration(c.client.clock.Exact() - since))
		v.inFlight.Add(1)
		v.verified.Add(1)
		return observe.ReasonNone
	} else if reason != observe.ReasonNone {
		return reason
	}
	second, reason := c.reload(ctx, e, load)
	switch {
	case reason != observe.ReasonNone:
		return reason
	case c.same(served, second):
		return observe.ReasonUnstable
	case !c.same(first, second): // it may have changed once more, or never say the same
		if third, reason := c.reload(ctx, e, load); reason != observe.ReasonNone {
			return reason
		} else if !c.same(second, third) {
			return observe.ReasonUnstable
		}
	}
	v.mismatched.Add(1)
	v.verified.Add(1)
	c.tellMismatch(ctx, e, level, time.Duration(c.client.clock.Exact()-since))
	return observe.ReasonNone
}

// outlasts waits, and says whether e was dropped meanwhile. If not, and nothing hinders, it is still served as fresh.
func (c *Cache[K, V]) outlasts(ctx context.Context, e *entry[K, V], since, wait int64) (dropped bool, _ observe.Reason) {
	look := time.NewTicker(time.Duration(max(wait/100, int64(time.Millisecond))))
	defer look.Stop()
	for {
		now := c.client.clock.Exact()
		p := c.client.prove(now, &e.checked, e.trust, e.proven, e.seen, e.deps, e.name)
		over := now-since > wait
		switch {
		case p == proofDropped:
			return true, observe.ReasonNone
		case p == proofEpoch:
			return false, observe.ReasonEpoch
		case now >= e.fresh:
			return false, observe.ReasonExpired
		case over && p == proofUncertified:
			return false, observe.ReasonUncertified
		case over && p == proofNone:
			return false, observe.ReasonUnproven
		case over:
			return false, c.serves(ctx, e)
		}
		select {
		case <-look.C:
		case <-ctx.Done():
			return false, observe.ReasonReplaced // not counted: the client is closed
		}
	}
}

// serves says why e isn't what a read would find, if it isn't.
func (c *Cache[K, V]) serves(ctx context.Context, e *entry[K, V]) observe.Reason {
	if c.near != nil {
		if here, ok := c.near.Peek(e.Key); ok {
			if here == e || here.id == e.id && e.id != (store.ID{}) {
				return observe.ReasonNone
			}
			if c.cfg.Plain { // their entries have no identity: a hot key is read anew again and again
				was, err1 := c.encode(e.value)
				is, err2 := c.encode(here.value)
				if err1 == nil && err2 == nil && bytes.Equal(was, is) {
					return observe.ReasonNone
				}
			}
			return observe.ReasonReplaced
		}
	}
	values, err := c.client.store.Read(ctx, []string{e.name}, c.cfg.Plain)
	switch {
	case err != nil:
		return observe.ReasonStoreError
	case c.cfg.Plain:
		if raw, err := c.encode(e.value); err == nil && bytes.Equal(raw, values[0].Image) {
			return observe.ReasonNone
		}
	case e.id != (store.ID{}) && store.IdentityOf(values[0].Image) == store.Identity(e.id[:]):
		return observe.ReasonNone
	}
	return observe.ReasonReplaced
}

// An answer is what is compared.
type answer[V any] struct {
	value    V
	negative bool
	raw      []byte // encoded, unless Config.Equal compares
}

// reload asks the source once more. It never waits for a place, takes none that others may want, and stores nothing.
func (c *Cache[K, V]) reload(ctx context.Context, e *entry[K, V], load loader[V]) (a answer[V], reason observe.Reason) {
	ctx, cancel := context.WithTimeoutCause(ctx, c.cfg.LoadTimeout, errLoadTimeout)
	defer cancel()
	place, reason := c.enterIdle()
	if reason != observe.ReasonNone {
		return a, reason
	}
	defer c.leave(&place)
	l := &Load{key: e.name, verify: true}
	var err error
	a.value, err = c.load(ctx, e.Key, l, load)
	c.judge(ctx, &place, err)
	a.negative = errors.Is(err, ErrNotFound)
	l.mu.Lock()
	noStore := l.noStore
	l.mu.Unlock()
	switch {
	case err != nil && !a.negative:
		return a, observe.ReasonLoadError
	case noStore:
		return a, observe.ReasonNoStore
	}
	return a, c.encodeAnswer(&a)
}

func (c *Cache[K, V]) encodeAnswer(a *answer[V]) observe.Reason {
	if a.negative || c.cfg.Equal != nil {
		return observe.ReasonNone
	}
	var err error
	if a.raw, err = c.encode(a.value); err != nil {
		return observe.ReasonEncode
	}
	return observe.ReasonNone
}

// same compares two answers: by Config.Equal, or by their bytes. A codec that writes a map in any order makes several of one value, so
// what differs is decoded, and compared once more.
func (c *Cache[K, V]) same(a, b answer[V]) (same bool) {
	defer func() {
		if p := recover(); p != nil { // of Equal or the codec
			same = false
		}
	}()
	switch {
	case a.negative || b.negative:
		return a.negative == b.negative
	case c.cfg.Equal != nil:
		return c.cfg.Equal(a.value, b.value)
	case bytes.Equal(a.raw, b.raw):
		return true
	}
	x, err1 := c.cfg.Codec.Decode(a.raw)
	y, err2 := c.cfg.Codec.Decode(b.raw)
	return err1 == nil && err2 == nil && reflect.DeepEqual(x, y)
}

// tellMismatch tells the hook, with what Explain knows.
func (c *Cache[K, V]) tellMismatch(ctx context.Context, e *entry[K, V], level observe.Level, differs time.Duration) {
	h := c.client.hooks.Mismatch
	if h == nil {
		return
	}
	m := observe.Mismatch{
		Cache: c.cfg.Name, Key: e.name, Level: level, Negative: e.negative, Differs: differs,
		Age: time.Duration(c.client.clock.Exact() - e.began), Tags: tagStates(e.deps),
	}
	if e.id != (store.ID{}) {
		m.Record = fmt.Sprintf("%x", e.id[:])
	}
	if x, err := c.client.Explain(ctx, e.name); err == nil && x.LastDrop != nil {
		m.LastDrop = &observe.LastDrop{Name: x.LastDrop.Name, By: x.LastDrop.By, At: x.LastDrop.At}
	}
	h(m)
}

func tagStates(deps mirror.Deps) []observe.TagState {
	var states []observe.TagState
	for _, t := range explainTags(deps) {
		states = append(states, observe.TagState{Tag: t.Tag, Read: uint64(t.Read), Stamp: uint64(t.Stamp), Known: t.Known})
	}
	return states
}
