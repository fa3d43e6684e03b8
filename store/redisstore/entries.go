package redisstore

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/redis/rueidis"

	"github.com/freshetdev/freshet/internal/redisx"
	"github.com/freshetdev/freshet/store"
)

// A server that is asked to expire a key in 0 ms refuses: ttls are rounded up.
func millis(d time.Duration) string {
	return strconv.FormatInt(int64((d+time.Millisecond-1)/time.Millisecond), 10)
}

func checkTTL(d time.Duration) error {
	if d <= 0 {
		return fmt.Errorf("ttl is %v; want more than zero", d)
	}
	return nil
}

// names are an entry's keys on the server: its own and that of its side lease.
func (s *Store) names(key string) []string {
	full := s.opts.Prefix + key
	return []string{full, sideLease(s.opts.Prefix, full)}
}

// Claim looks each key up and tries to lease it, and registers tags on the way: for one key in the same script.
func (s *Store) Claim(ctx context.Context, reqs []store.ClaimRequest, regs ...*store.Registration) []store.Claim {
	claims := make([]store.Claim, len(reqs))
	runs := make([]run, 0, len(reqs)+len(regs))
	var pieces []int // how many runs each registration takes
	for _, r := range regs {
		n := len(runs)
		if runs, r.Err = s.registerRuns(runs, r.Part, r.Tags); r.Err != nil {
			r.Err = fmt.Errorf("redisstore: register: %w", r.Err)
		}
		pieces = append(pieces, len(runs)-n)
	}
	registering := len(runs)
	at := make([]int, 0, len(reqs)) // the request of each run
	for i, r := range reqs {
		err := checkTTL(r.TTL)
		if err == nil && r.Plain && r.Refresh {
			err = errors.New("a plain key can't be refreshed in place")
		}
		if err != nil {
			claims[i].Err = fmt.Errorf("redisstore: claim %q: %w", r.Key, err)
			continue
		}
		at = append(at, i)
		runs = append(runs, s.claimRun(r))
	}
	if len(runs) == 0 {
		return claims
	}
	together := s.one != nil && registering == 1 && len(at) == 1 && !reqs[at[0]].Plain
	if together {
		runs = []run{{runs[1].script, append(runs[1].keys, runs[0].keys...), append(runs[1].args, runs[0].args...)}}
	}
	out, errs := s.answers(ctx, runs)
	if together {
		out, errs = split(out[0], errs[0])
	}
	for i, r := range regs {
		n := pieces[i]
		if n == 0 {
			continue
		}
		if r.Head, r.Stamps, r.Err = readRegistered(out[:n], errs[:n], len(r.Tags)); r.Err != nil {
			r.Err = fmt.Errorf("redisstore: register: %w", r.Err)
		}
		out, errs = out[n:], errs[n:]
	}
	for j, i := range at {
		e := errs[j]
		if e == nil {
			claims[i], e = readClaim(reqs[i], out[j])
		}
		if e != nil {
			claims[i] = store.Claim{Err: fmt.Errorf("redisstore: claim %q: %w", reqs[i].Key, e)}
		}
	}
	return claims
}

// split takes the answer of a claim that registered too apart, into those of the two.
func split(out []rueidis.RedisMessage, err error) ([][]rueidis.RedisMessage, []error) {
	parts, errs := make([][]rueidis.RedisMessage, 2), []error{err, err}
	if err == nil && len(out) != 2 {
		errs = []error{errStrange, errStrange}
	}
	for i := range parts {
		if errs[i] == nil {
			parts[1-i], errs[1-i] = out[i].ToArray()
		}
	}
	return parts, errs
}

// answers is runScripts for scripts that return arrays.
func (s *Store) answers(ctx context.Context, runs []run) ([][]rueidis.RedisMessage, []error) {
	res, errs := s.runScripts(ctx, runs)
	out := make([][]rueidis.RedisMessage, len(runs))
	for i := range runs {
		if errs[i] == nil {
			out[i], errs[i] = res[i].ToArray()
		}
	}
	return out, errs
}

// runScripts runs each script where its first key is. One error per run, in order.
func (s *Store) runScripts(ctx context.Context, runs []run) ([]rueidis.RedisResult, []error) {
	errs := make([]error, len(runs))
	fail := func(err error) {
		for i := range errs {
			errs[i] = err
		}
	}
	if s.one != nil {
		c, err := s.one.begin(ctx)
		if err != nil {
			fail(err)
			return nil, errs
		}
		defer c.end()
		res, err := c.scripts(runs)
		if err != nil {
			fail(err)
		}
		return res, errs
	}
	w := s.budget.start()
	res := make([]rueidis.RedisResult, len(runs))
	s.many.each(len(runs), func(i int) string { return runs[i].keys[0] }, func(n *node, at []int) {
		some := make([]run, len(at))
		for j, i := range at {
			some[j] = runs[i]
		}
		c, err := n.beginIn(ctx, w)
		var got []rueidis.RedisResult
		if err == nil {
			got, err = c.scripts(some)
			c.end()
		}
		for j, i := range at {
			if errs[i] = err; err == nil {
				res[i] = got[j]
			}
		}
	}, func(i int, err error) { errs[i] = errOr(ctx, err) })
	return res, errs
}

// runScript is runScripts for one.
func (s *Store) runScript(ctx context.Context, r run) (rueidis.RedisResult, error) {
	res, errs := s.runScripts(ctx, []run{r})
	if errs[0] != nil {
		return rueidis.RedisResult{}, errs[0]
	}
	return res[0], nil
}

func (s *Store) claimRun(r store.ClaimRequest) run {
	id := string(r.ID[:])
	if r.Plain {
		return run{claimPlainScript, s.names(r.Key), []string{id, millis(r.TTL), string(r.Seen)}}
	}
	refresh := "0"
	if r.Refresh {
		refresh = "1"
	}
	lease := string(store.LeaseImage(r.ID))
	return run{claimScript, s.names(r.Key), []string{id, lease, millis(r.TTL), string(r.Seen), refresh}}
}

func readClaim(r store.ClaimRequest, out []rueidis.RedisMessage) (store.Claim, error) {
	if len(out) > 0 {
		code, err := out[0].AsInt64()
		switch {
		case err != nil:
		case code == 1:
			l := store.Lease{Key: r.Key, ID: r.ID, Plain: r.Plain}
			return store.Claim{Outcome: store.Leased, Lease: l}, nil
		case code == 5:
			l := store.Lease{Key: r.Key, ID: r.ID, Seen: r.Seen, Refresh: true}
			return store.Claim{Outcome: store.Leased, Lease: l}, nil
		case code == 2 && len(out) == 2:
			image, err := out[1].AsBytes()
			return store.Claim{Outcome: store.Held, Image: image}, err
		case code == 3 && len(out) == 2:
			ms, err := out[1].AsInt64()
			return store.Claim{Outcome: store.Busy, Wait: max(time.Duration(ms)*time.Millisecond, time.Millisecond)}, err
		case code == 4:
			return store.Claim{Outcome: store.Gone}, nil
		}
	}
	return store.Claim{}, errStrange
}

var errStrange = redisx.ErrStrange

// mode says to the scripts what a lease looks like.
func mode(l store.Lease) string {
	switch {
	case l.Plain:
		return "plain"
	case l.Refresh:
		return "refresh"
	}
	return "lease"
}

// Fill stores images under leases.
func (s *Store) Fill(ctx context.Context, reqs []store.FillRequest) []error {
	errs := make([]error, len(reqs))
	runs := make([]run, 0, len(reqs))
	at := make([]int, 0, len(reqs))
	for i, r := range reqs {
		err := checkTTL(r.TTL)
		if err == nil && len(r.Image) == 0 {
			err = errors.New("the image is empty, which means absent")
		}
		if err != nil {
			errs[i] = fmt.Errorf("redisstore: fill %q: %w", r.Lease.Key, err)
			continue
		}
		at = append(at, i)
		l := r.Lease
		runs = append(runs, run{fillScript, s.names(l.Key),
			[]string{string(l.ID[:]), mode(l), string(l.Seen), rueidis.BinaryString(r.Image), millis(r.TTL)}})
	}
	if len(runs) == 0 {
		return errs
	}
	res, errOf := s.runScripts(ctx, runs)
	for j, i := range at {
		e := errOf[j]
		stored := int64(0)
		if e == nil {
			stored, e = res[j].AsInt64()
		}
		switch {
		case e != nil:
			errs[i] = fmt.Errorf("redisstore: fill %q: %w", reqs[i].Lease.Key, e)
		case stored == 0:
			errs[i] = store.ErrLeaseLost
		}
	}
	return errs
}

// Release gives a lease back.
func (s *Store) Release(ctx context.Context, l store.Lease) error {
	res, err := s.runScript(ctx, run{releaseScript, s.names(l.Key), []string{string(l.ID[:]), mode(l)}})
	if err == nil {
		err = res.Error()
	}
	if err != nil {
		return fmt.Errorf("redisstore: release %q: %w", l.Key, err)
	}
	return nil
}

// Write stores image at key.
func (s *Store) Write(ctx context.Context, key string, image []byte, ttl time.Duration) error {
	if err := s.write(ctx, key, image, ttl); err != nil {
		return fmt.Errorf("redisstore: write %q: %w", key, err)
	}
	return nil
}

func (s *Store) write(ctx context.Context, key string, image []byte, ttl time.Duration) error {
	if err := checkTTL(ttl); err != nil {
		return err
	}
	n := s.names(key)
	c, err := s.begin(ctx, n[0])
	if err != nil {
		return err
	}
	defer c.end()
	res, err := c.do(
		// Before the SET: after it there may be a new lease, for what we wrote.
		s.build.Unlink().Key(n[1]).Build(),
		s.build.Arbitrary("SET").Keys(n[0]).Args(rueidis.BinaryString(image), "PX", millis(ttl)).Build(),
		s.build.Strlen().Key(n[0]).Build(), // a read: our own write ended the tracking of the key
	)
	if err != nil {
		return err
	}
	return res[1].Error()
}
