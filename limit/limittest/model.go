package limittest

import (
	"context"
	"fmt"
	"slices"
	"sync"

	"github.com/freshetdev/freshet/limit"
)

// A Model is a store that is too simple to be wrong: one lock, one map, the arithmetic of package limit, and a clock that
// the test gives. It is what other stores are compared with, and what the simulator asks.
type Model struct {
	Now func() int64 // the server's clock, µs since 1970. It may step

	// Slots makes keys with different first bytes have different slots.
	Slots bool

	mu     sync.Mutex
	states map[string]*limit.State // guarded by mu
	closed bool                    // guarded by mu
}

var _ limit.Store = (*Model)(nil)

// NewModel returns an empty model.
func NewModel(now func() int64) *Model {
	return &Model{Now: now, states: map[string]*limit.State{}}
}

// Lose forgets everything, as a server does that fails over to an empty replica.
func (m *Model) Lose() {
	m.mu.Lock()
	defer m.mu.Unlock()
	clear(m.states)
}

// Keys is the number of keys that still say something.
func (m *Model) Keys() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return len(m.states)
}

func (m *Model) lock(step string) error {
	m.mu.Lock()
	if m.closed {
		m.mu.Unlock()
		return fmt.Errorf("model: %s: %w", step, limit.ErrClosed)
	}
	return nil
}

func name(p *limit.Policy, key string) string {
	return p.Name() + ":" + p.Rule().Kind.String() + ":" + key
}

func penaltyName(p *limit.Policy, key string) string { return p.Name() + ":penalty:" + key }

// load returns a copy of what is known.
func (m *Model) load(p *limit.Policy, key string) *limit.State {
	var s limit.State
	if known := m.states[name(p, key)]; known != nil {
		s = *known
		s.Spent, s.Held = slices.Clone(s.Spent), slices.Clone(s.Held)
	}
	if known := m.states[penaltyName(p, key)]; known != nil {
		s.Record = known.Record
	}
	return &s
}

// save keeps what a clean state says.
func (m *Model) save(p *limit.Policy, key string, s limit.State, now int64) {
	s.Record = limit.Record{}
	ends, _ := p.Rule().Expires(&s, now)
	m.put(name(p, key), s, ends)
}

// saveRecord keeps what it says of a penalty.
func (m *Model) saveRecord(p *limit.Policy, key string, s limit.State, now int64) {
	_, ends := p.Rule().Expires(&s, now)
	m.put(penaltyName(p, key), limit.State{Record: s.Record}, ends)
}

func (m *Model) put(name string, s limit.State, ends int64) {
	if ends > 0 {
		m.states[name] = &s
	} else {
		delete(m.states, name)
	}
}

func (m *Model) cells(c []limit.Charge) []limit.Cell {
	now := m.Now()
	cells := make([]limit.Cell, len(c))
	for i := range c {
		cells[i] = limit.Cell{Charge: c[i], State: m.load(c[i].Policy, c[i].Key), Now: now}
	}
	return cells
}

// Take implements [limit.Store].
func (m *Model) Take(ctx context.Context, c limit.Charge) (limit.Status, error) {
	out := make([]limit.Status, 1)
	err := m.TakeAll(ctx, []limit.Charge{c}, out)
	return out[0], err
}

// TakeAll implements [limit.Store].
func (m *Model) TakeAll(_ context.Context, c []limit.Charge, out []limit.Status) error {
	if err := m.lock("take"); err != nil {
		return err
	}
	defer m.mu.Unlock()
	cells := m.cells(c)
	limit.TakeCells(cells)
	for i := range cells {
		out[i] = cells[i].Status
		if cells[i].WriteState {
			m.save(c[i].Policy, c[i].Key, *cells[i].State, cells[i].Now)
		}
		if cells[i].WriteRecord && c[i].Policy.Rule().After > 0 {
			m.saveRecord(c[i].Policy, c[i].Key, *cells[i].State, cells[i].Now)
		}
	}
	return nil
}

// Peek implements [limit.Store].
func (m *Model) Peek(_ context.Context, c []limit.Charge, out []limit.Status) error {
	if err := m.lock("peek"); err != nil {
		return err
	}
	defer m.mu.Unlock()
	cells := m.cells(c)
	limit.PeekCells(cells)
	for i := range cells {
		out[i] = cells[i].Status
	}
	return nil
}

// Adjust implements [limit.Store].
func (m *Model) Adjust(_ context.Context, a []limit.Adjustment, out []limit.Status) error {
	if err := m.lock("adjust"); err != nil {
		return err
	}
	defer m.mu.Unlock()
	for i := range a {
		cells := m.cells([]limit.Charge{{Policy: a[i].Policy, Key: a[i].Key, Cost: 1}})
		r, s, now := a[i].Policy.Rule(), cells[0].State, cells[0].Now
		r.Clean(s, now)
		r.Adjust(s, now, a[i].Units, a[i].At)
		limit.PeekCells(cells)
		out[i] = cells[0].Status
		m.save(a[i].Policy, a[i].Key, *s, now)
	}
	return nil
}

// Renew implements [limit.Store].
func (m *Model) Renew(_ context.Context, p *limit.Policy, key string, id limit.ID) error {
	if err := m.lock("renew"); err != nil {
		return err
	}
	defer m.mu.Unlock()
	s, now := m.load(p, key), m.Now()
	p.Rule().Clean(s, now)
	if !p.Rule().Renew(s, now, id) {
		return fmt.Errorf("model: renew %q: %w", key, limit.ErrLeaseLost)
	}
	m.save(p, key, *s, now)
	return nil
}

// Release implements [limit.Store].
func (m *Model) Release(_ context.Context, p *limit.Policy, key string, id limit.ID) error {
	if err := m.lock("release"); err != nil {
		return err
	}
	defer m.mu.Unlock()
	s, now := m.load(p, key), m.Now()
	p.Rule().Clean(s, now)
	if p.Rule().Release(s, id) {
		m.save(p, key, *s, now)
	}
	return nil
}

// Reset implements [limit.Store].
func (m *Model) Reset(_ context.Context, p *limit.Policy, key string) error {
	if err := m.lock("reset"); err != nil {
		return err
	}
	defer m.mu.Unlock()
	delete(m.states, name(p, key))
	delete(m.states, penaltyName(p, key))
	return nil
}

// Slot implements [limit.Store].
func (m *Model) Slot(_ *limit.Policy, key string) int {
	if !m.Slots || key == "" {
		return 0
	}
	return int(key[0])
}

// Traits says that it waits for nothing but, like a server's, needs looking after: so a Limiter over it
// remembers refusals and takes ahead.
func (m *Model) Traits() limit.Traits { return limit.Traits{KeepsDeadline: true} }

// Close implements [limit.Store].
func (m *Model) Close() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.closed = true
	return nil
}
