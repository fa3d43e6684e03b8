package redisstore

import (
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/freshetdev/freshet/internal/testenv"
	"github.com/freshetdev/freshet/store"
)

// A drop is delivered once enough replicas have it, and who waits for them holds up nobody else.
func TestReplicas(t *testing.T) {
	t.Parallel()
	g := testenv.Sentinel(t)
	s := open(t, g.URL()+"&replicas=2", Options{Budget: 2 * time.Second})
	ctx := t.Context()
	if _, err := s.NewEpoch(ctx, 0, store.Head{}, 0); err != nil {
		t.Fatal(err)
	}
	g.Primary(t).WaitReplicas(t, g.Replicas(t)...)
	drop := func() error {
		_, err := s.Drop(ctx, 0, store.Drop{Keys: []string{"k"}, Tags: []string{"a"}}, store.Head{})
		return err
	}
	var wg sync.WaitGroup
	for range 50 {
		wg.Go(func() {
			if err := drop(); err != nil {
				t.Errorf("both replicas are there: %v", err)
			}
		})
	}
	wg.Wait()

	replica := g.Replicas(t)[0]
	replica.Pause()
	done := make(chan error, 1)
	go func() { done <- drop() }()
	time.Sleep(50 * time.Millisecond) // it waits for the replica by now
	for range 100 {
		if _, err := s.Read(ctx, []string{"k"}, false); err != nil {
			t.Errorf("a read meanwhile: %v", err)
		}
	}
	select {
	case err := <-done:
		t.Errorf("the drop returned before the reads did, with %v; want it to wait", err)
	default:
	}
	if err := <-done; !errors.Is(err, store.ErrTimeout) {
		t.Errorf("a drop that one replica lacks: %v; want ErrTimeout", err)
	}
	if _, err := s.Head(ctx, 0); err != nil {
		t.Errorf("head: %v; want the breaker not to count that", err)
	}
	replica.Resume()
	eventually(t, "a drop gets through again", func() bool { return drop() == nil })

	// Who comes while the replicas are being asked isn't covered by their answer.
	asked := g.Primary(t).CLI(t, "GET", "{freshet:0}:witness")
	replica.Pause()
	for range 2 {
		go func() { done <- drop() }()
		time.Sleep(50 * time.Millisecond)
	}
	replica.Resume()
	for range 2 {
		if err := <-done; err != nil {
			t.Errorf("a drop that waited: %v", err)
		}
	}
	var before, after int
	fmt.Sscan(asked, &before)
	fmt.Sscan(g.Primary(t).CLI(t, "GET", "{freshet:0}:witness"), &after)
	if after != before+2 {
		t.Errorf("the replicas were asked %d times; want twice", after-before)
	}
}
