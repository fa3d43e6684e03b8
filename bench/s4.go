package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"sync"
	"syscall"
	"time"

	"github.com/freshetdev/freshet/bench/adapters"
)

// s4 asks for one cold key from everywhere at once.
var s4 = scenario{
	name:  "S4",
	title: "stampede on a cold key",
	note: "2,000 callers ask for one cold key; its load takes 100 ms. In one process, and in 8 processes with 250 callers each. " +
		"Loads of the worst trial; p99 of eight processes is that of the slowest one.",
	variants: []string{"1 process", "8 processes"},
	rounds:   3,
	suits: func(a adapters.Adapter, variant string) bool {
		return a.Redis && (a.Kind != adapters.Yardstick || a.Protected)
	},
	run: runStampede,
	tables: []table{{columns: []column{
		{head: "one process: loads", variant: "1 process", metric: "loads", format: "%.0f"},
		{head: "p99 ms", variant: "1 process", metric: "p99_ms", format: "%.0f"},
		{head: "max ms", variant: "1 process", metric: "max_ms", format: "%.0f"},
		{head: "8 processes: loads", variant: "8 processes", metric: "loads", format: "%.0f"},
		{head: "p99 ms", variant: "8 processes", metric: "p99_ms", format: "%.0f"},
		{head: "max ms", variant: "8 processes", metric: "max_ms", format: "%.0f"},
		{head: "errors", variant: "8 processes", metric: "errors", format: "%.0f"},
	}}},
}

const stampedeLoad = 100 * time.Millisecond

// A stampede is what one process saw in one trial.
type stampede struct {
	Loads  int64
	P99    time.Duration
	Max    time.Duration
	Errors int
}

func (s stampede) add(o stampede) stampede {
	return stampede{s.Loads + o.Loads, max(s.P99, o.P99), max(s.Max, o.Max), s.Errors + o.Errors}
}

func runStampede(ctx context.Context, c Cell, a adapters.Adapter) (Metrics, error) {
	callers := pick(c, 2000, 400)
	trials := pick(c, 5, 2)
	var run func(key string) (stampede, error)
	if c.Variant == "1 process" {
		w, err := newStampeder(ctx, c, a)
		if err != nil {
			return nil, err
		}
		defer w.cache.Close()
		run = func(key string) (stampede, error) { return w.run(ctx, key, callers, time.Now()), nil }
	} else {
		f, err := startFleet(ctx, c, 8)
		if err != nil {
			return nil, err
		}
		defer f.close()
		run = func(key string) (stampede, error) { return f.run(key, callers/8) }
	}
	var p99s, maxes []float64
	var loads, errs float64
	for i := range trials {
		s, err := run(fmt.Sprintf("cold:%d:%d", c.Round, i))
		if err != nil {
			return nil, err
		}
		p99s, maxes = append(p99s, ms(s.P99)), append(maxes, ms(s.Max))
		loads, errs = max(loads, float64(s.Loads)), errs+float64(s.Errors)
	}
	return Metrics{"loads": loads, "p99_ms": median(p99s), "max_ms": median(maxes), "errors": errs}, nil
}

// A stampeder is one process with one cache.
type stampeder struct {
	src   *source
	cache adapters.Cache
}

func newStampeder(ctx context.Context, c Cell, a adapters.Adapter) (*stampeder, error) {
	src := &source{delay: stampedeLoad}
	cache, err := a.New(adapters.Config{
		Addr: c.Addr, Load: src.load, TTL: time.Minute, L1: 10_000, L1TTL: time.Minute, Patient: c.Smoke,
	})
	if err != nil {
		return nil, err
	}
	// Connect, and let background work settle.
	if err := fill(ctx, cache, []string{fmt.Sprintf("warm:%d", os.Getpid())}); err != nil {
		_ = cache.Close()
		return nil, err
	}
	time.Sleep(100 * time.Millisecond)
	return &stampeder{src, cache}, nil
}

// run lets all callers go at the given instant.
func (w *stampeder) run(ctx context.Context, key string, callers int, at time.Time) stampede {
	var (
		wg   sync.WaitGroup
		gate = make(chan struct{})
		took = make([]time.Duration, callers)
		errs = make([]error, callers)
	)
	loads := w.src.loads.Load()
	for i := range callers {
		wg.Go(func() {
			<-gate
			begin := time.Now()
			_, errs[i] = w.cache.Get(ctx, key)
			took[i] = time.Since(begin)
		})
	}
	time.Sleep(time.Until(at))
	close(gate)
	wg.Wait()
	s := stampede{Loads: w.src.loads.Load() - loads, P99: quantile(took, 0.99), Max: quantile(took, 1)}
	for _, err := range errs {
		if err != nil {
			s.Errors++
		}
	}
	return s
}

// An order tells a worker which key to ask for, and when.
type order struct {
	Key     string
	Callers int
	At      time.Time
}

// stampedeWorker is one of the eight processes: it says that it is ready, then answers each order
// with a stampede, until in ends.
func stampedeWorker(ctx context.Context, c Cell, a adapters.Adapter, in io.Reader, out io.Writer) error {
	w, err := newStampeder(ctx, c, a)
	if err != nil {
		return err
	}
	defer w.cache.Close()
	fmt.Fprintln(out, "ready")
	orders, answers := json.NewDecoder(in), json.NewEncoder(out)
	for {
		var o order
		if err := orders.Decode(&o); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return err
		}
		if err := answers.Encode(w.run(ctx, o.Key, o.Callers, o.At)); err != nil {
			return err
		}
	}
}

// A fleet is several worker processes.
type fleet struct{ workers []*worker }

type worker struct {
	cmd *exec.Cmd
	in  io.WriteCloser
	out *bufio.Reader
}

func startFleet(ctx context.Context, c Cell, n int) (*fleet, error) {
	f := &fleet{}
	for range n {
		cmd, err := childCommand(ctx, childCell{Cell: c, Addr: c.Addr, Quick: c.Quick, Smoke: c.Smoke, Worker: true})
		if err != nil {
			f.close()
			return nil, err
		}
		in, err := cmd.StdinPipe()
		if err != nil {
			f.close()
			return nil, err
		}
		out, err := cmd.StdoutPipe()
		if err != nil {
			f.close()
			return nil, err
		}
		if err := cmd.Start(); err != nil {
			f.close()
			return nil, err
		}
		f.workers = append(f.workers, &worker{cmd, in, bufio.NewReader(out)})
	}
	for _, w := range f.workers {
		if line, err := w.out.ReadString('\n'); err != nil || line != "ready\n" {
			f.close()
			return nil, fmt.Errorf("worker does not start: %q, %w", line, err)
		}
	}
	return f, nil
}

func (f *fleet) run(key string, callers int) (total stampede, err error) {
	o := order{key, callers, time.Now().Add(200 * time.Millisecond)}
	for _, w := range f.workers {
		if err := json.NewEncoder(w.in).Encode(o); err != nil {
			return total, err
		}
	}
	for _, w := range f.workers {
		line, err := w.out.ReadBytes('\n')
		if err != nil {
			return total, fmt.Errorf("worker: %w", err)
		}
		var s stampede
		if err := json.Unmarshal(line, &s); err != nil {
			return total, err
		}
		total = total.add(s)
	}
	return total, nil
}

func (f *fleet) close() {
	for _, w := range f.workers {
		_ = w.in.Close()
	}
	for _, w := range f.workers {
		_ = w.cmd.Wait()
	}
}

// childCommand is this program again.
func childCommand(ctx context.Context, c childCell) (*exec.Cmd, error) {
	spec, err := json.Marshal(c)
	if err != nil {
		return nil, err
	}
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	cmd := exec.CommandContext(ctx, self, childFlag, string(spec))
	cmd.Stderr = os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	return cmd, nil
}
