package main

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/freshetdev/freshet/bench/adapters"
)

// s7 lets a delete overtake a load.
var s7 = scenario{
	name:  "S7",
	title: "a load overtaken by a delete",
	note: "A load reads version 1 and takes 200 ms; meanwhile the row becomes version 2 and the key is deleted, by the same instance or by " +
		"another; then the load ends. Share of the repeats in which a later read of that instance, or a fresh instance, returned version 1.",
	variants: []string{"same instance", "another instance"},
	rounds:   2,
	suits: func(a adapters.Adapter, variant string) bool {
		if a.Kind == adapters.Yardstick {
			return a.Name == otterAlone && variant == "same instance"
		}
		return a.Redis
	},
	run: runOvertaken,
	tables: []table{{columns: []column{
		{head: "deleted by the same instance", variant: "same instance", metric: "stale", format: "%.0f %%"},
		{head: "fresh instance", variant: "same instance", metric: "stale_fresh", format: "%.0f %%"},
		{head: "by another instance", variant: "another instance", metric: "stale", format: "%.0f %%"},
		{head: "fresh instance", variant: "another instance", metric: "stale_fresh", format: "%.0f %%"},
	}}},
}

func runOvertaken(ctx context.Context, c Cell, a adapters.Adapter) (Metrics, error) {
	slow := &source{delay: 200 * time.Millisecond, begun: map[string]bool{}}
	cfg := adapters.Config{Addr: c.Addr, Load: slow.load, TTL: time.Minute, L1: 10_000, L1TTL: 30 * time.Second, Patient: c.Smoke}
	reader, err := a.New(cfg)
	if err != nil {
		return nil, err
	}
	defer reader.Close()
	deleter := reader
	if c.Variant == "another instance" {
		if deleter, err = a.New(cfg); err != nil {
			return nil, err
		}
		defer deleter.Close()
	}
	if err := firstError(fill(ctx, reader, []string{"warm"}), fill(ctx, deleter, []string{"warm"})); err != nil {
		return nil, err
	}

	keys := userKeys(pick(c, 20, 5))
	stale, errs := make([]bool, len(keys)), make([]error, len(keys))
	var wg sync.WaitGroup
	for i, key := range keys {
		wg.Go(func() {
			stale[i], errs[i] = overtake(ctx, slow, reader, deleter, key)
		})
	}
	wg.Wait()
	if err := firstError(errs...); err != nil {
		return nil, err
	}
	m := Metrics{"stale": 0, "stale_fresh": 0}
	fresh, err := a.New(cfg)
	if err != nil {
		return nil, err
	}
	defer fresh.Close()
	for i, key := range keys {
		if stale[i] {
			m["stale"] += 100 / float64(len(keys))
		}
		if !a.Redis {
			continue // nothing that two instances could share
		}
		p, err := fresh.Get(ctx, key)
		if err != nil {
			return nil, err
		}
		if p.Version < 2 {
			m["stale_fresh"] += 100 / float64(len(keys))
		}
	}
	return m, nil
}

// overtake reports whether reads of reader after the load return the overtaken version.
func overtake(ctx context.Context, db *source, reader, deleter adapters.Cache, key string) (bool, error) {
	loaded := make(chan error, 1)
	go func() {
		_, err := reader.Get(ctx, key)
		loaded <- err
	}()
	for !db.hasBegun(key) {
		select {
		case err := <-loaded:
			return false, fmt.Errorf("read of %s ended without a load: %w", key, err)
		case <-time.After(time.Millisecond):
		}
	}
	db.write(key, 2)
	if err := deleter.Del(ctx, key); err != nil {
		return false, fmt.Errorf("delete: %w", err)
	}
	if err := <-loaded; err != nil {
		return false, err
	}
	for range 2 { // some caches store a moment after they have answered
		p, err := reader.Get(ctx, key)
		if err != nil || p.Version < 2 {
			return true, err
		}
		time.Sleep(50 * time.Millisecond)
	}
	return false, nil
}
