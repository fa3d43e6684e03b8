package pgcdc

import (
	"context"
	"fmt"

	"github.com/freshetdev/freshet/cdc"
)

// byOID lists the tables.
func (c *catalog) byOID() map[string]*table {
	m := make(map[string]*table, len(c.tables))
	for _, t := range c.tables {
		m[t.oid] = t
	}
	return m
}

// watch looks at the slot and the catalog every watchEvery, and at once if there are tables to tell of.
func (s *stream) watch() {
	s.mu.Lock()
	waiting := len(s.appeared) > 0
	s.mu.Unlock()
	for {
		if !waiting && pause(s.life, s.src.watchEvery) != nil {
			return
		}
		waiting = false
		if err := s.look(); err != nil {
			_ = s.fail(err)
			return
		}
	}
}

func (s *stream) look() error {
	c, _, added, err := s.src.publish(s.life, s.side)
	if err != nil {
		return err
	}
	k, err := s.src.readSlot(s.life, s.side.query, c.version)
	if err != nil {
		return err
	}
	if s.src.tooLong(k) {
		err := gap("slot %s keeps %d bytes of log; want at most %d", s.src.opts.Slot, k.retained, s.src.opts.MaxSlotLag)
		_ = s.fail(err) // the connection goes first
		s.side.must(nil)
		if e := s.src.dropSlot(context.WithoutCancel(s.life), s.side); e != nil {
			return fmt.Errorf("%w; %w", err, e)
		}
		return err
	}
	if c.publication.oid != s.publication {
		return gap("publication %s was dropped, or made anew", s.src.opts.Publication)
	}
	return s.tell(c.byOID(), added)
}

// tell has Next tell of tables that aren't what they were, and of those that were added to the publication, once all that was written to
// them before is visible.
func (s *stream) tell(now map[string]*table, added []*table) error {
	changed := added
	for id, t := range now {
		was := s.tables[id]
		if was == nil || was.fingerprint == t.fingerprint {
			continue
		}
		changed = append(changed, t)
		if was.Schema != t.Schema || was.Name != t.Name {
			changed = append(changed, was)
		}
	}
	for id, was := range s.tables {
		if now[id] == nil {
			changed = append(changed, was)
		}
	}
	s.tables = now
	s.mu.Lock()
	for _, t := range changed {
		s.appeared = append(s.appeared, &cdc.Table{Schema: t.Schema, Name: t.Name, Columns: t.Columns, Identify: t.Identify})
	}
	waiting := len(s.appeared)
	s.mu.Unlock()
	if waiting == 0 {
		return nil
	}
	if err := s.settled(s.life); err != nil {
		return err
	}
	s.mu.Lock()
	s.visible = waiting
	s.mu.Unlock()
	s.src.count(func(st *Stats) { st.Altered += uint64(len(changed)) })
	return s.status(true) // the answer wakes Next
}
