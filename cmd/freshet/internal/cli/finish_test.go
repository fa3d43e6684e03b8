package cli

import (
	"context"
	"log/slog"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/freshetdev/freshet/cdc"
	"github.com/freshetdev/freshet/cdc/cdctest"
	"github.com/freshetdev/freshet/cmd/freshet/internal/config"
	"github.com/freshetdev/freshet/store/memstore"
)

// A slowSource is a database whose feed is held up while held is set.
type slowSource struct {
	cdc.Source
	held atomic.Bool
	free chan struct{}
}

type slowStream struct {
	cdc.Stream
	s *slowSource
}

func (s *slowSource) Open(ctx context.Context, from cdc.Position) (cdc.Stream, error) {
	st, err := s.Source.Open(ctx, from)
	if err != nil {
		return nil, err
	}
	return slowStream{st, s}, nil
}

func (s slowStream) Next(ctx context.Context, ev *cdc.Event) error {
	err := s.Stream.Next(ctx, ev)
	if s.s.held.Load() {
		select {
		case <-s.s.free:
		case <-ctx.Done():
		}
	}
	return err
}

// What was committed before the end is asked for, and not even read yet, is applied before it comes; but not waited for without end.
func TestFinish(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		items := &cdc.Table{Schema: "public", Name: "items", Columns: []cdc.Column{{Name: "id"}}}
		d := cdctest.NewDatabase(items)
		src := &slowSource{Source: d.Source(true), free: make(chan struct{})}
		rules, err := cdc.NewRules([]cdc.Rule{{Table: "items", Tags: []string{"items:{id}"}}})
		if err != nil {
			t.Fatal(err)
		}
		shared := memstore.NewServer(memstore.Options{}).Connect()
		defer shared.Close()
		applier, err := cdc.NewApplier(shared)
		if err != nil {
			t.Fatal(err)
		}
		l := newPumpLog(slog.New(slog.DiscardHandler), false)
		pump, err := cdc.NewPump(src, applier, cdc.Options{Name: "shop", Rules: rules, Hooks: l.hooks()})
		if err != nil {
			t.Fatal(err)
		}
		p := &pumped{followed: followed{Source: config.Source{Name: "shop"}}, pump: pump, log: l}
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error)
		go func() { ended <- pump.Run(ctx) }()
		time.Sleep(time.Second)

		src.held.Store(true)
		d.Commit(cdc.Change{Op: cdc.OpInsert, Table: items, New: []cdc.Value{cdc.Text("1")}})
		finished := make(chan bool, 1)
		go func() { finished <- p.finish(drainTime) }()
		time.Sleep(drainTime / 2)
		select {
		case <-finished:
			t.Error("it is finished, though a change was not read")
		default:
		}
		src.held.Store(false)
		close(src.free)
		if ok := <-finished; !ok || pump.Stats().Changes != 1 {
			t.Errorf("finished: %v, with %d changes; want 1", ok, pump.Stats().Changes)
		}

		// A feed that doesn't come.
		src.free = make(chan struct{})
		src.held.Store(true)
		began := time.Now()
		if ok := p.finish(drainTime); ok || time.Since(began) < drainTime || time.Since(began) > drainTime+time.Second {
			t.Errorf("finished: %v after %v; want that it gives up after %v", ok, time.Since(began), drainTime)
		}
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
}
