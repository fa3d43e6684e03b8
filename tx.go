package freshet

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"sync"
	"time"

	"github.com/freshetdev/freshet/internal/keys"
)

// A Tx collects the drops of one transaction of the database and applies them after its commit. [Client.InTx], and
// the packages sqltx and pgxtx for database/sql and pgx, do all of this by themselves; by hand it is
//
//	tx := client.Tx()
//	defer tx.Rollback()
//	ctx := tx.Context(ctx)             // drops and reads through it belong to the transaction
//	…                                  // write to the database; users.Drop(ctx, 7)
//	err = tx.Commit(ctx, dbtx.Commit)  // commits the database, then drops
//
// # Through the context
//
// Drop, DropTags, DropKeys and Clear note what is to be dropped and return nil. Set notes a drop too, and stores
// nothing: by the time of the commit somebody else may have written a newer value.
//
// Reads answer from the cache what is fresh there, and load the rest from the source: in the caller's goroutine, for this
// caller alone, with the caller's context. What was dropped in the transaction, by key or by a tag, is not answered from the
// cache. Such a load may see what isn't committed, or use a connection that nobody else may use, so that
// its value is never stored nor shared, it joins no other load, begins no refresh, and waits for no place
// among MaxLoads, whose holders may be waiting for a connection that this transaction has. To read past the
// transaction, use the context from before.
//
// Drop right after the write, not before the commit: a read between the two answers from the cache.
//
// Once the Tx has ended, its context is an ordinary one: drops apply at once.
//
// # When things go wrong
//
// A drop is never applied before the commit is known, and is always applied when the commit may have happened: a
// needless drop costs a load, a missing one leaves an old value for its whole TTL. So after an error of the commit
// (the connection was lost, the time was over) everything is dropped at once, and again after 1, 10 and 60
// seconds, since the server may get to the commit later.
//
// Not promised: the drops of a process that dies between commit and drop. Nobody is left who knows of them. What must not
// be missed then, write to a table of the same transaction ([Tx.Collected]), or follow the database's own log
// (change data capture), which tells of commits whoever made them.
//
// Not done: dropping before the commit as well. A load between that drop and the commit would
// read the old row and store it again, so it closes no gap; and each rollback would cost loads.
//
// A Tx that is neither committed nor rolled back holds its drops back. When the garbage collector finds it, they are applied as
// after a commit that may have happened, and [Stats].TxForgotten counts it.
//
// A Tx is safe for concurrent use.
type Tx struct {
	client  *Client
	c       *collected
	cleanup runtime.Cleanup
}

// collected is what a Tx collects. It outlives the Tx, for the garbage collector's cleanup.
type collected struct {
	client *Client

	mu      sync.Mutex
	phase   txPhase // guarded by mu
	counted bool    // in client.txs; guarded by mu
	drops   dropSet // guarded by mu
}

// The phases of a Tx:
//
//	phase       event     next        effect
//	open        Commit    committing  the database's commit is called
//	open        Rollback  ended       what was collected is forgotten
//	committing  returned  ended       what was collected is dropped, unless the error is ErrRolledBack
//	committing  Rollback  committing  none
//	ended       any       ended       Commit returns ErrTxDone; drops through the context apply at once
type txPhase uint8

const (
	txOpen txPhase = iota
	txCommitting
	txEnded
)

var (
	// ErrTxDone is returned by [Tx.Commit] after Commit or Rollback. The database's commit was not called.
	ErrTxDone = errors.New("freshet: transaction has already been committed or rolled back")

	// ErrTxOpen is returned by [Client.InTx] for a context that carries an open transaction.
	ErrTxOpen = errors.New("freshet: the context carries an open transaction already; use that one, or a context without it for another")

	// ErrRolledBack is for the commit function of a [Tx]: an error that matches it says that the database surely
	// did not commit. Then nothing is dropped.
	ErrRolledBack = errors.New("freshet: transaction rolled back")
)

// A CommitError is an error of the database's commit. Whether it committed is unknown; the drops were
// applied all the same. It wraps the database's error.
type CommitError struct {
	Err error

	// Drop is why the drops have not reached the store, if they haven't: a *PendingError. It is not wrapped, so that
	// an error that matches ErrPending always says that the database committed.
	Drop error
}

func (e *CommitError) Error() string {
	return fmt.Sprintf("freshet: commit, outcome unknown: %v", e.Err)
}
func (e *CommitError) Unwrap() error { return e.Err }

// Tx begins to collect the drops of a transaction. It must end with Commit or Rollback.
func (c *Client) Tx() *Tx {
	col := &collected{client: c}
	tx := &Tx{client: c, c: col}
	tx.cleanup = runtime.AddCleanup(tx, (*collected).forgotten, col)
	return tx
}

// txKey is the key of a client's txScope in a context.
type txKey struct{ c *Client }

// A txScope is what a context carries: a transaction, and those around it.
type txScope struct {
	tx    *Tx
	outer *txScope
}

// Context returns a context that carries the transaction. Drops and reads of this client's caches through it, and through those
// made from it, belong to the transaction until it ends. If ctx carries one already, drops go to the inner one, and
// reads mind both.
func (tx *Tx) Context(ctx context.Context) context.Context {
	tx.c.mu.Lock()
	if !tx.c.counted && tx.c.phase != txEnded {
		tx.c.counted = true
		tx.client.txs.Add(1)
		tx.client.scoped.Add(1)
	}
	tx.c.mu.Unlock()
	return context.WithValue(ctx, txKey{tx.client}, &txScope{tx: tx, outer: tx.client.scope(ctx)})
}

// TxOf returns the open transaction that ctx carries; nil if it carries none of this client.
func (c *Client) TxOf(ctx context.Context) *Tx {
	if s := c.scope(ctx); s != nil {
		return s.tx
	}
	return nil
}

// scope returns the innermost open transaction of ctx. While the client has none at all, it doesn't look.
func (c *Client) scope(ctx context.Context) *txScope {
	if c.txs.Load() == 0 {
		return nil
	}
	s, _ := ctx.Value(txKey{c}).(*txScope)
	for s != nil && s.tx.c.ended() {
		s = s.outer
	}
	return s
}

// touches reports whether an open transaction of the scope has dropped the key or one of the tags.
func (s *txScope) touches(key string, tags []string) bool {
	for ; s != nil; s = s.outer {
		c := s.tx.c
		c.mu.Lock()
		has := c.phase != txEnded && c.drops.concerns(key, tags)
		c.mu.Unlock()
		if has {
			return true
		}
	}
	return false
}

// collect notes a drop in the transaction of ctx. It reports false if there is none.
func (c *Client) collect(ctx context.Context, keys, tags []string) (collected bool, err error) {
	for s := c.scope(ctx); s != nil; s = s.outer {
		if lost, ok := s.tx.c.add(keys, tags); ok {
			if !lost.empty() {
				err = c.notKept(lost, fmt.Errorf("the transaction drops more than %d keys or tags, or longer keys than %d bytes", c.opts.MaxPending, c.opts.MaxKey))
			}
			return true, err
		}
	}
	return false, nil
}

// Collected returns what is dropped at the commit, in no particular order: string keys such as "user:7", and tags.
func (tx *Tx) Collected() (keys, tags []string) {
	tx.c.mu.Lock()
	defer tx.c.mu.Unlock()
	return tx.c.drops.list()
}

// Commit calls commit, which is to commit the transaction of the database, and then applies the drops, each once. A nil
// commit means that the database has committed already. The drops are applied even if ctx is over.
//
//	nil                 committed, and dropped
//	is ErrPending       committed; the drops hold here, and will be delivered (see [Client.DropTags])
//	is ErrNotKept       committed; some drops could not be delivered and won't be, for want of room in the outbox
//	is ErrTxDone        nothing was done: the Tx had ended before
//	is ErrClosed        nothing was done: the client is closed. The Tx is still open
//	is ErrRolledBack    not committed, says commit; nothing is dropped
//	a *CommitError      commit failed in another way: it may have happened, and everything is dropped
//
// If commit panics, everything is dropped too.
func (tx *Tx) Commit(ctx context.Context, commit func(context.Context) error) error {
	if err := tx.client.beginCommit(); err != nil {
		return err
	}
	defer tx.client.commits.Done()
	if !tx.c.pass(txOpen, txCommitting) {
		return ErrTxDone
	}
	returned := false
	defer func() {
		if !returned {
			_ = tx.apply(ctx, true)
		}
	}()
	var err error
	if commit != nil {
		err = commit(ctx)
	}
	returned = true
	switch {
	case err == nil:
		return tx.apply(ctx, false)
	case errors.Is(err, ErrRolledBack):
		tx.end()
		return err
	default:
		return &CommitError{Err: err, Drop: tx.apply(ctx, true)}
	}
}

// Rollback forgets what was collected. After Commit, and after Rollback, it does nothing, so it can be deferred.
func (tx *Tx) Rollback() {
	if tx.c.pass(txOpen, txEnded) {
		tx.end()
	}
}

// apply ends the Tx and drops what it collected.
func (tx *Tx) apply(ctx context.Context, unknown bool) error {
	keys, tags := tx.end()
	return tx.client.dropCollected(ctx, keys, tags, unknown)
}

func (tx *Tx) end() (keys, tags []string) {
	tx.cleanup.Stop()
	return tx.c.end()
}

// beginCommit keeps Close waiting: a transaction that commits while the client is closing has its drops sent.
func (c *Client) beginCommit() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed.Load() {
		return ErrClosed
	}
	c.commits.Add(1)
	return nil
}

func (c *collected) ended() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.phase == txEnded
}

func (c *collected) pass(from, to txPhase) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.phase != from {
		return false
	}
	c.phase = to
	return true
}

// add notes drops, and reports false after the end:
//
//	A: Commit → the database has committed, end takes what was collected
//	B: Drop through the same context → too late to be taken: it must apply at once, or is lost
func (c *collected) add(keys, tags []string) (lost names, ok bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.phase == txEnded {
		return names{}, false
	}
	return c.drops.add(keys, tags, c.client.outbox, c.client.opts.MaxPending), true
}

func (c *collected) end() (keys, tags []string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.phase = txEnded
	if c.counted {
		c.counted = false
		c.client.txs.Add(-1)
		c.client.scoped.Add(-1)
	}
	keys, tags = c.drops.list()
	c.drops = dropSet{}
	return keys, tags
}

// forgotten is called by the garbage collector for a Tx that nobody can end any more.
func (c *collected) forgotten() {
	if c.ended() {
		return
	}
	keys, tags := c.end()
	if len(keys)+len(tags) == 0 {
		return
	}
	c.client.stats.txForgotten.Add(1)
	c.client.background(func() { _ = c.client.dropCollected(c.client.ctx, keys, tags, true) })
}

// A dropSet is keys and tags, each once. Beyond a limit they become coarser, and then are lost, as in the outbox.
type dropSet struct {
	keys, tags map[string]struct{}
}

// add adds keys and tags up to a limit of each, and as many coarse tags again. It returns those that are lost.
func (s *dropSet) add(ks, ts []string, o *outbox, limit int) (lost names) {
	if s.keys == nil {
		s.keys, s.tags = make(map[string]struct{}), make(map[string]struct{})
	}
	put := func(m map[string]struct{}, name string, limit int) bool {
		if _, ok := m[name]; !ok && len(m) >= limit {
			return false
		}
		m[name] = struct{}{}
		return true
	}
	for _, t := range ts {
		table := keys.Coarse(t)
		if table == "" && put(s.tags, t, 2*limit) || table != "" && (put(s.tags, t, limit) || put(s.tags, table, 2*limit)) {
			continue
		}
		lost.tags = append(lost.tags, t)
	}
	for _, k := range ks {
		if len(k) <= o.longest && put(s.keys, k, limit) {
			continue
		}
		if tag, ok := o.coarse(k); ok && put(s.tags, tag, 2*limit) {
			continue
		}
		lost.keys = append(lost.keys, k)
	}
	return lost
}

func (s *dropSet) concerns(key string, tags []string) bool {
	if _, ok := s.keys[key]; ok {
		return true
	}
	return len(s.tags) > 0 && slices.ContainsFunc(tags, func(t string) bool { _, ok := s.tags[t]; return ok })
}

func (s *dropSet) list() (names, tags []string) {
	for k := range s.keys {
		names = append(names, k)
	}
	for t := range s.tags {
		tags = append(tags, t)
	}
	return names, tags
}

// dropCollected drops what a transaction collected; if it is unknown whether that has committed, once more later on.
func (c *Client) dropCollected(ctx context.Context, keys, tags []string, unknown bool) error {
	if len(keys)+len(tags) == 0 {
		return nil
	}
	how := c.pendingOf(ctx)
	if how == PendingFail { // what is committed can't be undone
		how = PendingReturn
	}
	_, err := c.dropMany(context.WithoutCancel(ctx), ctx, how, keys, tags)
	if unknown {
		c.again.add(c, keys, tags)
	}
	return err
}

// pausesAgain are when drops are repeated after a commit of which nobody knows whether and when it happens. A
// commit that was sent before the connection broke may still lie in a buffer, or wait for a standby:
//
//	A: COMMIT → sent; the connection breaks; drop
//	B: loads the old row, fills
//	   the server commits
//	A: drop, again → B's entry is gone
var pausesAgain = [...]time.Duration{time.Second, 10 * time.Second, time.Minute}

// dropsAgain are drops that will be repeated.
type dropsAgain struct {
	mu      sync.Mutex
	batches []againBatch  // guarded by mu
	running bool          // guarded by mu
	wake    chan struct{} // gets something at each add
}

type againBatch struct {
	began int64
	step  int // of pausesAgain
	drops dropSet
}

func (b *againBatch) due() int64 { return b.began + int64(pausesAgain[b.step]) }

// add notes what is to be repeated. For all batches together there is room as in the outbox; what is beyond it has been
// dropped once, and is not repeated.
func (a *dropsAgain) add(c *Client, keys, tags []string) {
	if lost := a.addTo(c, keys, tags); !lost.empty() {
		_ = c.notKept(lost, errNoRoom)
	}
}

func (a *dropsAgain) addTo(c *Client, keys, tags []string) (lost names) {
	now := c.clock.Exact()
	a.mu.Lock()
	defer a.mu.Unlock()
	if n := len(a.batches); n == 0 || a.batches[n-1].step > 0 || now-a.batches[n-1].began > int64(100*time.Millisecond) {
		a.batches = append(a.batches, againBatch{began: now})
	}
	room := c.opts.MaxPending
	for i := range a.batches {
		room -= len(a.batches[i].drops.keys) + len(a.batches[i].drops.tags)
	}
	last := &a.batches[len(a.batches)-1].drops
	lost = last.add(keys, tags, c.outbox, max(room, 0)+max(len(last.keys), len(last.tags)))
	if a.wake == nil {
		a.wake = make(chan struct{}, 1)
	}
	if !a.running {
		a.running = c.background(func() { a.run(c) })
	}
	select {
	case a.wake <- struct{}{}:
	default:
	}
	return lost
}

// run repeats drops until none is left to be repeated, or the client is closed: then all once more.
func (a *dropsAgain) run(c *Client) {
	for {
		keys, tags, pause, done := a.next(c.clock.Exact(), false)
		if len(keys)+len(tags) > 0 {
			_, _ = c.dropMany(c.ctx, c.ctx, PendingReturn, keys, tags)
			continue
		}
		if done {
			return
		}
		select {
		case <-time.After(pause):
		case <-a.wake:
		case <-c.ctx.Done():
			keys, tags, _, _ := a.next(c.clock.Exact(), true)
			last, cancel := context.WithTimeout(context.Background(), c.opts.StoreBudget)
			_, _ = c.dropMany(last, last, PendingReturn, keys, tags)
			cancel()
			return
		}
	}
}

// next returns what is due, and if nothing is, how long it is until something will be.
func (a *dropsAgain) next(now int64, all bool) (keys, tags []string, pause time.Duration, done bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	pause = pausesAgain[len(pausesAgain)-1]
	for i := range a.batches {
		b := &a.batches[i]
		if !all && now < b.due() {
			pause = min(pause, time.Duration(b.due()-now))
			continue
		}
		k, t := b.drops.list()
		keys, tags = append(keys, k...), append(tags, t...)
		b.step++
	}
	a.batches = slices.DeleteFunc(a.batches, func(b againBatch) bool { return b.step >= len(pausesAgain) })
	a.running = len(a.batches) > 0 || len(keys)+len(tags) > 0
	return keys, tags, pause, !a.running
}
