package pgcdc

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/freshetdev/freshet/cdc"
)

// TestVisible is the barrier, with a synchronous standby that never comes: a commit then is in the log, and not visible to
// anybody, for as long as one likes.
func TestVisible(t *testing.T) {
	pg := postgres(t)
	d := database(t, pg)
	d.sql("create table t (id int primary key, v int); insert into t values (1, 1), (2, 1)")
	s := d.source()
	s.watchEvery = 10 * patience
	r := d.open(s, "")

	version := func(id string) string { return d.sql("select v from t where id = " + id) }
	begin := func() cdc.Position {
		t.Helper()
		for {
			ctx, cancel := context.WithTimeout(t.Context(), patience)
			defer cancel()
			var ev cdc.Event
			if err := r.Next(ctx, &ev); err != nil {
				t.Fatal(err)
			}
			if ev.Kind == cdc.Commit {
				return ev.Tx.Pos
			}
		}
	}
	notVisible := func(st cdc.Stream, pos cdc.Position) {
		t.Helper()
		ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
		defer cancel()
		if err := st.Visible(ctx, pos); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("Visible says %v of a commit that nobody sees; want it to wait", err)
		}
	}

	d.sql("update t set v = 2 where id = 2")
	before := begin()
	release := d.Stall()
	defer release()
	writer := d.dial()
	defer writer.Close(context.Background())
	wrote := make(chan error, 1)
	go func() {
		_, err := run(writer, "update t set v = 2 where id = 1")
		wrote <- err
	}()
	pos := begin() // it is delivered
	if got := version("1"); got != "1" {
		t.Fatalf("the row has version %s before its commit is done; this test shows nothing", got)
	}
	notVisible(r, pos)
	if err := r.Visible(t.Context(), before); err != nil {
		t.Errorf("what came before is not held up: %v", err)
	}
	// A tick passes: it says how far the feed is, and the barrier is what certifies.
	if _, err := r.Read(); err != nil {
		t.Errorf("tick while a commit hangs: %v", err)
	}
	// One that begins now doesn't get the commit, so all that follows a start waits for it.
	r.Close()
	r = d.open(s, "")
	notVisible(r, r.Start())

	// Nor does one whose slot is new: the server makes none before the commit is done.
	short, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	other, err := d.source(func(o *Options) { o.Slot = d.name + "_new" }).Open(short, "")
	if err == nil {
		notVisible(other, other.Start())
		other.Close()
	} else if !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a new slot meanwhile: %v", err)
	}

	again := make(chan error, 1)
	go func() { again <- r.Visible(context.Background(), r.Start()) }()
	release()
	if err := <-wrote; err != nil {
		t.Fatal(err)
	}
	if err := <-again; err != nil {
		t.Errorf("Visible after the standby was given up: %v", err)
	}
	if got := version("1"); got != "2" {
		t.Errorf("Visible returned, and the row has version %s; want 2", got)
	}
	r.Close()
	r = d.open(s, before) // the same for one that gets it again
	pos = begin()
	if err := r.Visible(t.Context(), pos); err != nil || version("1") != "2" {
		t.Errorf("after all: %v, version %s", err, version("1"))
	}
}
