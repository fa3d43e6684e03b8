package cdc

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"

	"github.com/freshetdev/freshet/store"
)

// perDrop bounds the names in one entry of the log: the store does an entry in one step.
const perDrop = 500

// NewApplier returns an applier to a store, which must keep marks and reach the keys of other programs (store.Marker,
// store.Outsider), as memstore and redisstore do. It doesn't close the store. A program that has a freshet.Client may use
// the store that it gave to freshet.New, or one more by the same URL and prefix.
//
// Of the keys of Drops, those that begin with the store's prefix (all, if it has none) are dropped as freshet's own: with
// their leases, and told to every instance's memory. Others are deleted. Both come before the messages.
func NewApplier(s store.Store) (Applier, error) {
	m, ok := s.(store.Marker)
	if !ok {
		return nil, fmt.Errorf("cdc: store of type %T keeps no marks; want a store.Marker, such as redisstore", s)
	}
	o, ok := s.(store.Outsider)
	if !ok {
		return nil, fmt.Errorf("cdc: store of type %T doesn't reach the keys of other programs; want a store.Outsider, such as redisstore", s)
	}
	return &storeApplier{marker: m, outsider: o, parts: make([]applied, m.Partitions())}, nil
}

type storeApplier struct {
	marker   store.Marker
	outsider store.Outsider
	source   string
	parts    []applied
}

// applied is what an applier knows of one partition.
type applied struct {
	mark store.Mark // read or set last
	last store.Head // the last entry that it appended

	// has are entries that the log must have at the next mark: what was appended since the last one. An entry
	// that follows another of them directly stands for it, too, since the log is a chain. It isn't enough to look at
	// the latest: after a failover that lost d1,
	//
	//	d1 appended, acknowledged, lost     somebody else appends x
	//	d2 appended after x                 the mark sees d2, and would speak of d1
	has []store.Head
}

// appended notes an entry.
func (a *applied) appended(e store.LogEntry) {
	if n := len(a.has); n > 0 && e.Prev == a.has[n-1].Pos && e.PrevNonce == a.has[n-1].Nonce {
		a.has[n-1] = e.Head
	} else {
		a.has = append(a.has, e.Head)
	}
	a.last = e.Head
}

// each calls f for all partitions at once.
func (a *storeApplier) each(from int, f func(part int, p *applied) error) error {
	if len(a.parts)-from == 1 {
		return f(from, &a.parts[from])
	}
	errs := make([]error, len(a.parts))
	var wg sync.WaitGroup
	for i := from; i < len(a.parts); i++ {
		wg.Go(func() { errs[i] = f(i, &a.parts[i]) })
	}
	wg.Wait()
	return errors.Join(errs...)
}

// Mark implements [Applier].
func (a *storeApplier) Mark(ctx context.Context, source string) (store.Mark, error) {
	a.source = source
	known := make([]bool, len(a.parts))
	err := a.each(0, func(part int, p *applied) error {
		m, err := a.marker.Mark(ctx, part, source)
		if err != nil {
			return err
		}
		head, err := a.marker.Head(ctx, part)
		switch {
		case errors.Is(err, store.ErrNoLog):
			*p = applied{mark: m}
			return nil // what the mark speaks of is gone
		case err != nil:
			return err
		}
		if lost, err := a.lost(ctx, part, p, head); err != nil {
			return err
		} else if lost {
			// Others' drops are gone, too, and who made them may not know: nothing from before is valid.
			if _, err := a.marker.NewEpoch(ctx, part, head, p.last.Pos); err != nil && !errors.Is(err, store.ErrHeadMoved) {
				return err
			}
		}
		*p = applied{mark: m}
		known[part] = m.Pos != ""
		return nil
	})
	if err != nil {
		return store.Mark{}, fmt.Errorf("cdc: read mark: %w", err)
	}
	if slices.Contains(known, false) {
		low := a.lowest()
		low.Pos = ""
		return low, nil
	}
	return a.lowest(), nil
}

// lost reports whether the log, which ends at head, lost an entry that this applier appended.
func (a *storeApplier) lost(ctx context.Context, part int, p *applied, head store.Head) (bool, error) {
	if p.last.Epoch == 0 || head.Epoch != p.last.Epoch {
		return false, nil // nothing was appended, or all entries are invalid already
	}
	for _, h := range append(slices.Clone(p.has), p.last) {
		es, err := a.marker.Tail(ctx, part, h.Pos-1, 1)
		if err != nil && !errors.Is(err, store.ErrCorrupt) {
			return false, err
		}
		if len(es) > 0 && es[0].Head == h {
			continue
		}
		first, err := a.marker.Tail(ctx, part, 0, 1)
		if err != nil {
			return false, err
		}
		if head.Pos < h.Pos || len(first) > 0 && first[0].Pos < h.Pos {
			return true, nil // the log has what is before it: it wasn't cut for its length
		}
	}
	return false, nil
}

// lowest is the mark from which all partitions know.
func (a *storeApplier) lowest() store.Mark {
	low := a.parts[0].mark
	for _, p := range a.parts[1:] {
		if p.mark.Seq < low.Seq {
			low = p.mark
		}
	}
	return low
}

// SetMark implements [Applier]. It numbers the mark itself.
//
// Who sets a mark begins with the first partition, so of two pumps only one goes on to the others:
//
//	A sets 0, B is refused at 0        never: A sets 0, B sets 1
func (a *storeApplier) SetMark(ctx context.Context, source string, m store.Mark) error {
	for _, p := range a.parts {
		m.Seq = max(m.Seq, p.mark.Seq+1)
	}
	set := func(part int, p *applied) error {
		if err := a.marker.SetMark(ctx, part, source, p.mark, m, p.has); err != nil {
			if errors.Is(err, store.ErrMoved) {
				err = fmt.Errorf("%w: %w", ErrMoved, err)
			}
			return err
		}
		p.mark, p.has = m, p.has[:0]
		return nil
	}
	err := set(0, &a.parts[0])
	if err == nil && len(a.parts) > 1 {
		err = a.each(1, set)
	}
	if err != nil {
		return fmt.Errorf("cdc: set mark: %w", err)
	}
	return nil
}

// Apply implements [Applier].
func (a *storeApplier) Apply(ctx context.Context, d *Drops) error {
	n := len(a.parts)
	drops := make([]store.Drop, n)
	by := store.ByPump(a.source, d.Committed)
	var outside []string
	for _, t := range d.Tags {
		p := store.PartitionOf(t, n)
		drops[p].Tags = append(drops[p].Tags, t)
	}
	for _, key := range d.Keys {
		own, ok := strings.CutPrefix(key, a.outsider.Prefix())
		if !ok {
			outside = append(outside, key)
			continue
		}
		p := store.PartitionOf(own, n)
		drops[p].Keys = append(drops[p].Keys, own)
	}
	for keys := range slices.Chunk(outside, perDrop) {
		if err := a.outsider.Unlink(ctx, keys...); err != nil {
			return fmt.Errorf("cdc: delete keys: %w", err)
		}
	}
	for _, pattern := range d.Patterns {
		if _, err := a.outsider.Sweep(ctx, pattern); err != nil {
			return fmt.Errorf("cdc: delete keys: %w", err)
		}
	}
	// The entry after them proves that they are not lost: it is later in the server's history.
	if !d.Early && len(outside)+len(d.Patterns) > 0 && len(drops[0].Tags)+len(drops[0].Keys) == 0 {
		if err := a.drop(ctx, 0, store.Drop{By: by}, false); err != nil {
			return err
		}
	}
	err := a.each(0, func(part int, _ *applied) error {
		all := drops[part]
		for len(all.Tags)+len(all.Keys) > 0 {
			t, k := min(len(all.Tags), perDrop), min(len(all.Keys), perDrop)
			if err := a.drop(ctx, part, store.Drop{Tags: all.Tags[:t], Keys: all.Keys[:k], By: by}, d.Early); err != nil {
				return err
			}
			all.Tags, all.Keys = all.Tags[t:], all.Keys[k:]
		}
		return nil
	})
	if err != nil {
		return err
	}
	for _, m := range d.Publish {
		if err := a.outsider.Publish(ctx, m.Channel, m.Payload); err != nil {
			return fmt.Errorf("cdc: publish: %w", err)
		}
	}
	return nil
}

func (a *storeApplier) drop(ctx context.Context, part int, d store.Drop, early bool) error {
	p := &a.parts[part]
	e, err := a.marker.Drop(ctx, part, d, p.last)
	if err != nil {
		if errors.Is(err, store.ErrBehind) || errors.Is(err, store.ErrNoLog) {
			err = fmt.Errorf("%w: %w", ErrMoved, err)
		}
		return fmt.Errorf("cdc: drop: %w", err)
	}
	if early {
		p.last = e.Head
	} else {
		p.appended(e)
	}
	return nil
}

// Epoch implements [Applier].
func (a *storeApplier) Epoch(ctx context.Context) error {
	err := a.each(0, func(part int, p *applied) error {
		for {
			head, err := a.marker.Head(ctx, part)
			if err != nil && !errors.Is(err, store.ErrNoLog) {
				return err
			}
			e, err := a.marker.NewEpoch(ctx, part, head, max(head.Pos, p.last.Pos))
			switch {
			case errors.Is(err, store.ErrHeadMoved):
				continue // somebody dropped something meanwhile
			case err != nil:
				return err
			}
			p.has = nil
			p.appended(e)
			return nil
		}
	})
	if err != nil {
		return fmt.Errorf("cdc: new epoch: %w", err)
	}
	return nil
}
