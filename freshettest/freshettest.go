// Package freshettest is for the tests of programs that use freshet: instances over a store in memory that breaks when told to,
// time that passes without waiting, and counted loads.
//
//	func TestProfile(t *testing.T) {
//		freshettest.Run(t, func(t *testing.T, s *freshettest.Store) {
//			rows := freshettest.Count(loadUser)
//			a, b := newService(s.Open(), rows.Load), newService(s.Open(), rows.Load)
//			…
//			freshettest.Pass(2 * time.Hour)
//			s.Down()
//			rows.Want(t, 1)
//		})
//	}
//
// # Time
//
// [Run] is a bubble of testing/synctest: everything in it follows a clock that jumps when all goroutines wait, so a TTL of an hour
// ends in no time and to the nanosecond. There is no clock to inject. Pass lets time go by. What waits for the
// world outside of the bubble (sockets, a real database) doesn't work in it: there use [NewStore] or [Open]
// by themselves, with TTLs of milliseconds. A goroutine that is still there when the test ends fails it.
//
// # Faults
//
// They are the store's, for all its clients or for those that are named:
//
//	Down     the connection is lost: operations fail at once
//	Hang     the connection stays, and nothing comes over it: operations end after Options.StoreBudget
//	Slow     each operation takes so much longer; what would take longer than StoreBudget isn't done
//	Restore  ends these three
//
// and those of the server, for all: LoseAnnouncements, DropLease, Delete, Flush. A source's are at [Loads].
//
// # At the end of a test
//
// Clients are closed. The test fails if a transaction is open then, if a drop can't be delivered though faults are over, and
// if Close doesn't return, which means that a loader ignores its context.
//
// Not promised: the timing of a real Redis, its eviction, its failovers. The in-memory store is one server with
// one log. All calls are safe for concurrent use.
package freshettest

import (
	"context"
	"errors"
	"runtime"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/freshetdev/freshet"
	"github.com/freshetdev/freshet/store"
	"github.com/freshetdev/freshet/store/memstore"
)

// patience is how long Settle, and the Close of a client, may take.
const patience = 10 * time.Second

// A Store is the shared level of the clients that it opens. They are to each other as instances that share a Redis.
type Store struct {
	t   testing.TB
	srv *memstore.Server

	mu    sync.Mutex
	conns []*conn // guarded by mu
}

// Run runs f in a bubble of testing/synctest, with a store. It fails if f leaves goroutines behind.
func Run(t *testing.T, f func(t *testing.T, s *Store)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) { f(t, NewStore(t)) })
}

// Pass lets d go by, and returns when all goroutines of the bubble wait. Outside of one it panics.
func Pass(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

// NewStore makes an empty store for one test.
func NewStore(t testing.TB) *Store {
	return &Store{t: t, srv: memstore.NewServer(memstore.Options{})}
}

// Open makes a client over a store of its own, which is closed at the end of the test.
func Open(t testing.TB, o ...freshet.Options) *freshet.Client {
	t.Helper()
	return NewStore(t).Open(o...)
}

// Open makes another client over the store, which is closed at the end of the test. There is one Options at most;
// its ExactClock is always on. It returns when the client follows the log.
func (s *Store) Open(o ...freshet.Options) *freshet.Client {
	s.t.Helper()
	var opts freshet.Options
	if len(o) > 1 {
		s.t.Fatalf("freshettest: Open got %d Options; want one at most", len(o))
	}
	if len(o) == 1 {
		opts = o[0]
	}
	opts.ExactClock = true
	c := newConn(s.srv.Connect(), opts.StoreBudget)
	client, err := freshet.New(c, opts)
	if err != nil {
		s.t.Fatalf("freshettest: %v", err)
	}
	c.client = client
	s.mu.Lock()
	s.conns = append(s.conns, c)
	s.mu.Unlock()
	s.t.Cleanup(func() { s.close(c) })
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if err := client.CatchUp(ctx); err != nil {
		s.t.Fatalf("freshettest: open: %v", err)
	}
	return client
}

func (s *Store) close(c *conn) {
	c.restore()
	if n := c.client.Stats().TxOpen; n > 0 {
		s.t.Errorf("freshettest: %d transactions are open at the end of the test; want Commit or Rollback of each", n)
	}
	done := make(chan error, 1)
	go func() { done <- c.client.Close() }()
	late := time.NewTimer(patience)
	defer late.Stop()
	select {
	case err := <-done:
		if err != nil {
			s.t.Errorf("freshettest: close: %v", err)
		}
	case <-late.C:
		stacks := make([]byte, 1<<20)
		s.t.Errorf("freshettest: Close doesn't return; does a loader, or a commit, ignore its context?\n%s", stacks[:runtime.Stack(stacks, true)])
	}
	s.mu.Lock()
	s.conns = slices.DeleteFunc(s.conns, func(other *conn) bool { return other == c })
	s.mu.Unlock()
}

// of returns the connections of clients; all if none is named.
func (s *Store) of(clients []*freshet.Client) []*conn {
	s.t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(clients) == 0 {
		return slices.Clone(s.conns)
	}
	var found []*conn
	for _, client := range clients {
		i := slices.IndexFunc(s.conns, func(c *conn) bool { return c.client == client })
		if i < 0 {
			s.t.Fatal("freshettest: a client that this store did not open, or that is closed")
		}
		found = append(found, s.conns[i])
	}
	return found
}

// Down takes the connections of clients down, of all if none is named: what they ask fails at once.
func (s *Store) Down(clients ...*freshet.Client) {
	s.t.Helper()
	for _, c := range s.of(clients) {
		c.mem.Cut()
	}
}

// Hang makes the store silent: nobody is told that anything is wrong. What is announced meanwhile comes with
// Restore; what was asked and has ended by then was not done.
func (s *Store) Hang(clients ...*freshet.Client) {
	s.t.Helper()
	for _, c := range s.of(clients) {
		c.hang()
	}
}

// Slow makes each operation take d longer. From StoreBudget on it isn't done, and times out.
func (s *Store) Slow(d time.Duration, clients ...*freshet.Client) {
	s.t.Helper()
	for _, c := range s.of(clients) {
		c.setSlow(d)
	}
}

// Restore ends Down, Hang and Slow.
func (s *Store) Restore(clients ...*freshet.Client) {
	s.t.Helper()
	for _, c := range s.of(clients) {
		c.restore()
	}
}

// LoseAnnouncements loses the announcements of the next n drops (or of calls of DropTags and the like, one each), as
// Pub/Sub does. The instances find out by themselves, within Options.StaleAtMost.
func (s *Store) LoseAnnouncements(n int) { s.srv.LoseNext(n) }

// DropLease takes away the lease of a string key such as "user:7", under which an instance loads it: what that load brings
// can't be stored any more. It reports whether there was one.
func (s *Store) DropLease(key string) bool {
	image, ok := s.srv.Get(key)
	if !ok {
		return false
	}
	if r, err := store.DecodeRecord(image); len(image) > 0 && (err != nil || r.Kind != store.KindLease) {
		return false
	}
	return s.srv.Del(key) == 1
}

// Delete deletes string keys as any other client of the store could (DEL), or an eviction, and returns how many were there.
func (s *Store) Delete(keys ...string) int { return s.srv.Del(keys...) }

// Has reports whether the store has a value or a lease at a string key such as "user:7".
func (s *Store) Has(key string) bool {
	_, ok := s.srv.Get(key)
	return ok
}

// Flush loses everything, the log too, as FLUSHALL or a restart without persistence does.
func (s *Store) Flush() { s.srv.FlushAll() }

// Settle returns when the pending drops of clients, or of all if none is named, have been delivered, and they know of every
// drop so far: what they answer from now on is no older. It fails the test if that isn't so in ten seconds.
func (s *Store) Settle(clients ...*freshet.Client) {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	all := s.of(clients)
	for _, c := range all {
		if err := c.client.WaitDelivered(ctx); err != nil && !errors.Is(err, freshet.ErrClosed) {
			s.t.Fatalf("freshettest: settle: drops are pending: %v", err)
		}
	}
	for _, c := range all {
		if err := c.client.CatchUp(ctx); err != nil && !errors.Is(err, freshet.ErrClosed) {
			s.t.Fatalf("freshettest: settle: an instance doesn't learn of all drops: %v", err)
		}
	}
}
