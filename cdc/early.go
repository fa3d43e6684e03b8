package cdc

import (
	"context"
	"errors"
	"time"
)

// earlyAfter is how long the barrier is waited for in peace. Most commits are visible within a fraction of a millisecond.
const earlyAfter = 5 * time.Millisecond

// visibleOrEarly is the barrier for b. While it stands, what was read is dropped early:
//
//	A commits, and waits for a synchronous standby: it is told and can't be seen
//	B commits after it, and can be seen: its drops wait for A's
//
// This proves nothing, so all of it is dropped again in its turn: a load may have read the row of A since. Nothing is marked, and
// nothing is published.
func (s *session) visibleOrEarly(ctx context.Context, b *batch) error {
	early, cancel := context.WithCancel(ctx)
	defer cancel()
	done := make(chan struct{})
	timer := time.AfterFunc(earlyAfter, func() {
		defer close(done)
		s.early(early, b)
	})
	err := s.visible(ctx, b.barrier)
	if !timer.Stop() {
		cancel()
		<-done
	}
	return err
}

// early drops b, and what is read meanwhile, up to a full batch. It has what belongs to run, which waits.
func (s *session) early(ctx context.Context, b *batch) {
	defer wake(s.ready) // it took the signals
	for {
		s.mu.Lock()
		d := b.notYetEarly()
		s.mu.Unlock()
		n := len(d.Tags) + len(d.Keys)
		for n > 0 {
			err := s.p.app.Apply(ctx, d)
			if err == nil {
				break
			}
			if errors.Is(err, ErrMoved) {
				return // run will find it, too
			}
			if ctx.Err() == nil {
				s.p.failed("early", err, s.p.opts.Retry)
				sleep(ctx, s.p.opts.Retry)
			}
			if ctx.Err() != nil {
				s.mu.Lock()
				b.late = nil // all of it, if there is a next time
				s.mu.Unlock()
				return
			}
		}
		s.p.count(func(st *Stats) { st.Early += uint64(n) })
		s.p.step("early")
		select {
		case <-ctx.Done():
			return
		case <-s.ready:
		}
		s.mu.Lock()
		b = s.filling
		s.mu.Unlock()
	}
}

// notYetEarly returns the tags and keys that changed since it was called last.
func (b *batch) notYetEarly() *Drops {
	d := &Drops{Early: true}
	if b.late == nil {
		d.Tags, d.Keys = append(d.Tags, b.Tags...), append(d.Keys, b.Keys...)
	}
	for name := range b.late {
		switch name[0] {
		case kindTag:
			d.Tags = append(d.Tags, name[1:])
		case kindKey:
			d.Keys = append(d.Keys, name[1:])
		}
	}
	b.late = make(map[string]bool)
	return d
}
