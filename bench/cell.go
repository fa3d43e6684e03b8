package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"sync"
	"sync/atomic"
	"time"

	"github.com/freshetdev/freshet/bench/adapters"
	"github.com/freshetdev/freshet/bench/profile"
)

// A Cell is one measurement: a scenario in one variant, with one cache, in one round. It runs
// in a process of its own.
type Cell struct {
	Scenario string `json:"scenario"`
	Variant  string `json:"variant"`
	Cache    string `json:"cache"`
	Round    int    `json:"round"`

	Addr  string `json:"-"` // of Redis
	Quick bool   `json:"-"` // little time rather than a good measurement
	Smoke bool   `json:"-"` // Quick, and small and patient enough for the race detector
}

// Metrics are what a cell measured, by name.
type Metrics map[string]float64

// A Result is a cell and what came of it.
type Result struct {
	Cell
	Metrics Metrics `json:"metrics,omitempty"`
	Error   string  `json:"error,omitempty"`
	Note    string  `json:"note,omitempty"` // what the process wrote to stderr
}

// A scenario is one of S1 to S8, or L1 and L2.
type scenario struct {
	name     string
	title    string
	note     string // printed under the title
	variants []string
	rounds   int                       // that give a stable median
	contest  func() []adapters.Adapter // who takes part, in the order of the tables; nil: the caches
	suits    func(a adapters.Adapter, variant string) bool
	run      func(ctx context.Context, c Cell, a adapters.Adapter) (Metrics, error)
	tables   []table
}

// scenarios returns all: S for caches, L for rate limiters.
func scenarios() []scenario {
	return []scenario{s1, s2, s3, s4, s5, s6, s7, s8, l1, l2}
}

// all are those who take part.
func (s scenario) all() []adapters.Adapter {
	if s.contest != nil {
		return s.contest()
	}
	return adapters.All()
}

func (s scenario) named(name string) (adapters.Adapter, bool) {
	for _, a := range s.all() {
		if a.Name == name {
			return a, true
		}
	}
	return adapters.Adapter{}, false
}

// full or quick.
func pick[T any](c Cell, full, quick T) T {
	if c.Quick {
		return quick
	}
	return full
}

// childCell is how a cell travels to its process.
type childCell struct {
	Cell
	Addr   string `json:"addr"`
	Quick  bool   `json:"quick"`
	Smoke  bool   `json:"smoke"`
	Worker bool   `json:"worker"` // S4: one of several processes
}

// runChild is the child process: one cell, its metrics as JSON on out.
func runChild(ctx context.Context, spec string, in io.Reader, out io.Writer) error {
	var c childCell
	if err := json.Unmarshal([]byte(spec), &c); err != nil {
		return err
	}
	c.Cell.Addr, c.Cell.Quick, c.Cell.Smoke = c.Addr, c.Quick, c.Smoke
	for _, s := range scenarios() {
		if s.name == c.Scenario {
			a, ok := s.named(c.Cache)
			if !ok {
				return fmt.Errorf("no cache %q", c.Cache)
			}
			if c.Worker {
				return stampedeWorker(ctx, c.Cell, a, in, out)
			}
			m, err := s.run(ctx, c.Cell, a)
			if err != nil {
				return err
			}
			return json.NewEncoder(out).Encode(m)
		}
	}
	return fmt.Errorf("no scenario %q", c.Scenario)
}

// A source is the database: it counts loads and takes its time, but no longer than the
// caller waits.
type source struct {
	delay time.Duration
	large bool
	loads atomic.Int64

	mu       sync.Mutex
	versions map[string]int64 // of rows that were written; guarded by mu
	begun    map[string]bool  // rows that a load has read; guarded by mu
}

func (s *source) load(ctx context.Context, key string) (profile.Profile, error) {
	s.loads.Add(1)
	version := s.read(key)
	if s.delay > 0 {
		t := time.NewTimer(s.delay)
		defer t.Stop()
		select {
		case <-t.C:
		case <-ctx.Done():
			return profile.Profile{}, ctx.Err()
		}
	}
	if s.large {
		return profile.LargeOf(key, version), nil
	}
	return profile.Of(key, version), nil
}

// read is the query of a load: what is written after it does not reach that load.
func (s *source) read(key string) int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.begun != nil {
		s.begun[key] = true
	}
	return max(1, s.versions[key])
}

func (s *source) hasBegun(key string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.begun[key]
}

func (s *source) write(key string, version int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.versions == nil {
		s.versions = map[string]int64{}
	}
	s.versions[key] = version
}

func userKeys(n int) []string {
	keys := make([]string, n)
	for i := range keys {
		keys[i] = fmt.Sprintf("user:%06d", i)
	}
	return keys
}

// fill asks for every key once, with a few callers at a time.
func fill(ctx context.Context, c adapters.Cache, keys []string) error {
	var (
		wg    sync.WaitGroup
		next  atomic.Int64
		first atomic.Pointer[error]
	)
	for range 64 {
		wg.Go(func() {
			for {
				i := next.Add(1) - 1
				if i >= int64(len(keys)) {
					return
				}
				if _, err := c.Get(ctx, keys[i]); err != nil {
					first.CompareAndSwap(nil, &err)
				}
			}
		})
	}
	wg.Wait()
	if err := first.Load(); err != nil {
		return fmt.Errorf("fill: %w", *err)
	}
	return nil
}
