package redisstore

import (
	"cmp"
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/redis/rueidis"

	"github.com/freshetdev/freshet/store"
)

const (
	// A command blocks the server, about 1 us a key: a large deletion is cut in pieces of
	// this many. So is a large registration; but an entry is appended in one piece,
	// since its stamps and its place in the chain must change together.
	perCommand = 500

	// A stamp that nobody asked for in this time goes; it comes back at the end of the
	// log, which costs its entries a miss.
	stampTTL = "86400"
)

// Drop deletes d.Keys and appends d to the log, in one round trip.
func (s *Store) Drop(ctx context.Context, part int, d store.Drop, known store.Head) (store.LogEntry, error) {
	e, err := s.drop(ctx, part, d, known)
	if err != nil {
		return store.LogEntry{}, fmt.Errorf("redisstore: drop: %w", err)
	}
	return e, nil
}

func (s *Store) drop(ctx context.Context, part int, d store.Drop, known store.Head) (store.LogEntry, error) {
	e := store.LogEntry{Drop: d}
	e.Nonce = rand.Uint64()
	p, err := s.partition(part)
	if err != nil {
		return e, err
	}
	keys := append(make([]string, 0, 2+len(d.Tags)), p.head, p.log)
	for _, tag := range d.Tags {
		keys = append(keys, p.stamp+tag)
	}
	epoch, pos, nonce := headArgs(known)
	script := run{dropScript, keys, []string{
		epoch, pos, nonce, hex16(e.Nonce), messageRest(d), p.channel, strconv.Itoa(s.opts.LogLength), s.publish(),
	}}
	w := s.budget.start()
	if s.many != nil {
		if err := s.many.unlink(ctx, w, d.Keys); err != nil {
			return e, err
		}
	}
	n, err := s.nodeOf(p.head)
	if err != nil {
		return e, errOr(ctx, err)
	}
	if err = s.appendDrop(ctx, n, w, d, script, &e); err != nil || s.opts.Replicas == 0 {
		return e, err
	}
	left, cancel := w.join(ctx)
	defer cancel()
	if err := n.witness.confirm(left, p.witness); err != nil {
		return e, errOr(ctx, err)
	}
	return e, nil
}

// appendDrop appends d to the log on n. On a single server it deletes the keys on the same way.
func (s *Store) appendDrop(ctx context.Context, n *node, w *window, d store.Drop, script run, e *store.LogEntry) error {
	c, err := n.beginIn(ctx, w)
	if err != nil {
		return err
	}
	defer c.end()
	var deletes []rueidis.Completed
	if s.one != nil {
		for keys := range slices.Chunk(d.Keys, perCommand) {
			names := make([]string, 0, 2*len(keys))
			for _, key := range keys {
				names = append(names, s.names(key)...)
			}
			deletes = append(deletes, s.build.Unlink().Key(names...).Build())
		}
	}
	res, err := c.scripts([]run{script}, deletes...)
	if err != nil {
		return err
	}
	return readDrop(res[0], e)
}

// publish is the command that announces. The scripts fall back to PUBLISH where it isn't known.
func (s *Store) publish() string {
	if s.many != nil {
		return "SPUBLISH"
	}
	return "PUBLISH"
}

func readDrop(res rueidis.RedisResult, e *store.LogEntry) error {
	out, err := res.AsStrSlice()
	switch {
	case wrongType(err):
		return store.ErrNoLog
	case err != nil:
		return err
	case len(out) == 1 && out[0] == "nolog":
		return store.ErrNoLog
	case len(out) == 1 && out[0] == "behind":
		return store.ErrBehind
	case len(out) != 5:
		return errStrange
	}
	if e.Epoch, err = parseHex16(out[1]); err != nil {
		return err
	}
	if e.Pos, err = parsePos(out[2]); err != nil {
		return err
	}
	if e.Prev, err = parsePos(out[3]); err != nil {
		return err
	}
	e.PrevNonce, err = parseHex16(out[4])
	return err
}

// Head reads the end of the log, and the server's clock on the way. All messages and
// pushes that the server sent before are queued by the goroutine that reads the
// connection before it hands over this answer, and Head waits until they are told.
func (s *Store) Head(ctx context.Context, part int) (store.Head, error) {
	h, err := s.head(ctx, part)
	if err != nil {
		return store.Head{}, fmt.Errorf("redisstore: head: %w", err)
	}
	return h, nil
}

func (s *Store) head(ctx context.Context, part int) (store.Head, error) {
	p, err := s.partition(part)
	if err != nil {
		return store.Head{}, err
	}
	c, err := s.begin(ctx, p.head)
	if err != nil {
		return store.Head{}, err
	}
	defer c.end()
	var others errgroup
	if s.many != nil {
		for _, n := range s.many.probed(part, c.node) {
			others.run(func() error { return n.prove(ctx, c.window) })
		}
	}
	sent := time.Now()
	cmds := []rueidis.Completed{
		s.build.Hmget().Key(p.head).Field("epoch", "pos", "nonce").Build(),
		s.build.Time().Build(),
	}
	if s.moves {
		cmds = append(cmds, s.build.Role().Build())
	}
	count := s.many != nil && part == 0
	if count {
		cmds = append(cmds, s.build.Get().Key(s.countKey()).Build())
	}
	res, err := c.do(cmds...)
	received := time.Now()
	if err = cmp.Or(others.wait(), err); err != nil {
		return store.Head{}, err
	}
	if count {
		if rueidis.IsRedisNil(res[3].Error()) {
			err = c.node.checkCount(c.ctx, c.link) // all was deleted
		} else {
			err = s.checkAnswer(res[3])
		}
		if err != nil {
			s.many.fail(err) // no link is made while it is wrong
			return store.Head{}, fmt.Errorf("%w: %w", store.ErrUnavailable, err)
		}
	}
	if s.moves {
		// A replica that was the primary still answers, from what it had.
		if err := primary(res[2]); err != nil {
			c.link.Fail(err)
			return store.Head{}, fmt.Errorf("%w: %w", store.ErrUnavailable, err)
		}
	}
	if now, err := serverTime(res[1]); err == nil {
		s.clocks[part].heard(now, sent, received)
	}
	if c.link.split {
		// Messages have a connection of their own. A round trip there brings what
		// was sent on it before the first answer.
		if err := c.link.subscribe(c.ctx); err != nil {
			return store.Head{}, c.node.failure(ctx, c.link, err)
		}
	}
	// Whatever came before the answer is in the queue of events by now.
	if err := s.events.flush(c.ctx); err != nil {
		if ctx.Err() != nil {
			return store.Head{}, ctx.Err()
		}
		return store.Head{}, fmt.Errorf("%w: a watcher is slow", store.ErrTimeout)
	}
	fields, err := res[0].ToArray()
	if wrongType(err) {
		return store.Head{}, store.ErrNoLog
	}
	if err != nil {
		return store.Head{}, err
	}
	return readHead(fields)
}

// An errgroup waits for functions that run at the same time.
type errgroup struct {
	wg  sync.WaitGroup
	mu  sync.Mutex
	err error // the first one; guarded by mu
}

func (g *errgroup) run(f func() error) {
	g.wg.Go(func() {
		if err := f(); err != nil {
			g.mu.Lock()
			defer g.mu.Unlock()
			g.err = cmp.Or(g.err, err)
		}
	})
}

func (g *errgroup) wait() error {
	g.wg.Wait()
	return g.err
}

// readHead reads epoch, position and nonce. Any of them missing means no log.
func readHead(fields []rueidis.RedisMessage) (h store.Head, err error) {
	if len(fields) < 3 {
		return h, store.ErrNoLog
	}
	var text [3]string
	for i := range text {
		if text[i], err = fields[i].ToString(); err != nil {
			return h, store.ErrNoLog
		}
	}
	if h.Epoch, err = parseHex16(text[0]); err != nil {
		return h, err
	}
	if h.Pos, err = parsePos(text[1]); err != nil {
		return h, err
	}
	h.Nonce, err = parseHex16(text[2])
	return h, err
}

// Register reads the stamps of tags, and creates missing ones.
func (s *Store) Register(ctx context.Context, part int, tags []string) (store.Head, []store.Pos, error) {
	h, stamps, err := s.register(ctx, part, tags)
	if err != nil {
		return store.Head{}, nil, fmt.Errorf("redisstore: register: %w", err)
	}
	return h, stamps, nil
}

func (s *Store) register(ctx context.Context, part int, tags []string) (store.Head, []store.Pos, error) {
	runs, err := s.registerRuns(nil, part, tags)
	if err != nil {
		return store.Head{}, nil, err
	}
	out, errs := s.answers(ctx, runs)
	return readRegistered(out, errs, len(tags))
}

// registerRuns appends what registers tags to runs: at least one run.
func (s *Store) registerRuns(runs []run, part int, tags []string) ([]run, error) {
	p, err := s.partition(part)
	if err != nil {
		return runs, err
	}
	for rest, first := tags, true; first || len(rest) > 0; first = false {
		n := min(len(rest), perCommand)
		keys := append(make([]string, 0, 1+n), p.head)
		for _, tag := range rest[:n] {
			keys = append(keys, p.stamp+tag)
		}
		runs = append(runs, run{registerScript, keys, []string{stampTTL}})
		rest = rest[n:]
	}
	return runs, nil
}

// readRegistered reads the answers of a registration of n tags.
func readRegistered(outs [][]rueidis.RedisMessage, errs []error, n int) (head store.Head, stamps []store.Pos, err error) {
	stamps = make([]store.Pos, 0, n)
	for i, out := range outs {
		if wrongType(errs[i]) {
			return head, nil, store.ErrNoLog
		}
		if errs[i] != nil {
			return head, nil, errs[i]
		}
		h, err := readHead(out)
		if err != nil {
			return head, nil, err
		}
		if i == 0 {
			// The oldest head is the one that every stamp can be compared with:
			// a drop between the calls makes a stamp larger, never smaller.
			head = h
		} else if h.Epoch != head.Epoch {
			return head, nil, fmt.Errorf("%w: a new epoch began meanwhile", store.ErrHeadMoved)
		}
		for j := 3; j < len(out); j++ {
			text, err := out[j].ToString()
			if err != nil {
				return head, nil, err
			}
			pos, err := parsePos(text)
			if err != nil {
				return head, nil, err
			}
			stamps = append(stamps, pos)
		}
	}
	if len(stamps) != n {
		return head, nil, errStrange
	}
	return head, stamps, nil
}

// Tail returns entries after pos.
func (s *Store) Tail(ctx context.Context, part int, after store.Pos, limit int) ([]store.LogEntry, error) {
	es, err := s.tail(ctx, part, after, limit)
	if err != nil {
		return nil, fmt.Errorf("redisstore: tail: %w", err)
	}
	return es, nil
}

func (s *Store) tail(ctx context.Context, part int, after store.Pos, limit int) ([]store.LogEntry, error) {
	p, err := s.partition(part)
	if err != nil {
		return nil, err
	}
	c, err := s.begin(ctx, p.head)
	if err != nil {
		return nil, err
	}
	defer c.end()
	res, err := c.do(
		s.build.Exists().Key(p.head).Build(),
		s.build.Xrange().Key(p.log).Start(strconv.FormatUint(uint64(after)+1, 10)).End("+").Count(int64(max(limit, 1))).Build(),
	)
	if err != nil {
		return nil, err
	}
	there, err := res[0].AsInt64()
	if err != nil {
		return nil, err
	}
	items, err := res[1].AsXRange()
	if there == 0 || wrongType(err) {
		return nil, store.ErrNoLog
	}
	if err != nil {
		return nil, err
	}
	entries := make([]store.LogEntry, 0, len(items))
	for _, it := range items[:min(len(items), max(limit, 0))] {
		e, err := decodeMessage(it.FieldValues["m"])
		if err != nil {
			if len(entries) > 0 {
				return entries, nil // it will be the first of the next
			}
			return nil, fmt.Errorf("entry %s: %w: %w", it.ID, store.ErrCorrupt, err)
		}
		entries = append(entries, e)
	}
	return entries, nil
}

// NewEpoch starts a new epoch if the log is still at seen.
func (s *Store) NewEpoch(ctx context.Context, part int, seen store.Head, above store.Pos) (store.LogEntry, error) {
	e, err := s.newEpoch(ctx, part, seen, above)
	if err != nil {
		return store.LogEntry{}, fmt.Errorf("redisstore: new epoch: %w", err)
	}
	return e, nil
}

func (s *Store) newEpoch(ctx context.Context, part int, seen store.Head, above store.Pos) (store.LogEntry, error) {
	p, err := s.partition(part)
	if err != nil {
		return store.LogEntry{}, err
	}
	e := store.LogEntry{NewEpoch: true, Prev: seen.Pos, PrevNonce: seen.Nonce}
	e.Nonce = rand.Uint64()
	se, sp, sn := headArgs(seen)
	res, err := s.runScript(ctx, run{epochScript, []string{p.head, p.log}, []string{
		se, sp, sn, strconv.Itoa(rand.IntN(store.EpochRandom)), hex16(e.Nonce), messageRest(store.Drop{}), p.channel, strconv.Itoa(s.opts.LogLength),
		strconv.FormatUint(uint64(above), 10), s.publish(),
	}})
	if err != nil {
		return store.LogEntry{}, err
	}
	out, err := res.AsStrSlice()
	switch {
	case err != nil:
		return store.LogEntry{}, err
	case len(out) == 1 && out[0] == "moved":
		return store.LogEntry{}, store.ErrHeadMoved
	case len(out) != 3:
		return store.LogEntry{}, errStrange
	}
	if e.Pos, err = parsePos(out[1]); err != nil {
		return e, err
	}
	e.Epoch, err = parseHex16(out[2])
	return e, err
}

// headArgs are a head as the scripts take it: empty if there is none.
func headArgs(h store.Head) (epoch, pos, nonce string) {
	if h == (store.Head{}) {
		return "", "", ""
	}
	return hex16(h.Epoch), strconv.FormatUint(uint64(h.Pos), 10), hex16(h.Nonce)
}

// serverTime reads the answer to TIME: seconds and microseconds.
func serverTime(res rueidis.RedisResult) (time.Time, error) {
	t, err := res.AsIntSlice()
	if err != nil {
		return time.Time{}, err
	}
	if len(t) != 2 {
		return time.Time{}, errStrange
	}
	return time.Unix(t[0], t[1]*1000), nil
}
