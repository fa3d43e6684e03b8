package main

import (
	"bytes"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/freshetdev/freshet/bench/adapters"
	"github.com/freshetdev/freshet/bench/limiters"
)

const (
	// childFlag says that this process is one cell; the cell follows as JSON.
	childFlag = "-child"

	// best is the cache that ratios are taken against: the best one by hand.
	best = "by hand: otter+rueidis"

	// otterAlone is the cache without Redis: the limit in an outage.
	otterAlone = "otter, struct"
)

// quickCaches are measured by -quick.
var quickCaches = []string{"freshet", best, "otter, pointer, coarse clock", "otter+rueidis, 50 ms limit and breaker", limiters.Script, limiters.Unremembered, limiters.Ahead, threeLimits}

type options struct {
	scenarios []scenario
	caches    []string // parts of names; empty: all
	rounds    int      // 0: what each scenario says
	quick     bool
	dir       string
	render    bool
}

func run(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	if len(args) == 2 && args[0] == childFlag {
		return runChild(ctx, args[1], os.Stdin, stdout)
	}
	o, err := parse(args, stderr)
	if err != nil {
		return err
	}
	if o.render {
		return render(o.dir)
	}
	for _, s := range o.scenarios {
		rep, err := measure(ctx, s, o, stderr)
		if err != nil {
			return fmt.Errorf("%s: %w", s.name, err)
		}
		fmt.Fprintln(stdout, rep.markdown(s))
		if o.quick || len(o.caches) > 0 {
			continue // part of the picture: not for the README
		}
		if err := rep.save(o.dir); err != nil {
			return err
		}
	}
	if o.quick || len(o.caches) > 0 {
		return nil
	}
	return render(o.dir)
}

func parse(args []string, stderr io.Writer) (o options, err error) {
	f := flag.NewFlagSet("bench", flag.ContinueOnError)
	f.SetOutput(stderr)
	names := f.String("scenario", "all", "comma-separated `names`, S1 to S8")
	caches := f.String("caches", "", "comma-separated `parts` of cache names to measure (prints only)")
	f.IntVar(&o.rounds, "rounds", 0, "rounds; 0 is what each scenario asks for")
	f.BoolVar(&o.quick, "quick", false, "everything in little time, a few caches, one round (prints only)")
	f.StringVar(&o.dir, "dir", ".", "`folder` of README.md and results/")
	f.BoolVar(&o.render, "render", false, "only write README.md from results/")
	if err := f.Parse(args); err != nil {
		return o, err
	}
	if f.NArg() > 0 {
		return o, fmt.Errorf("argument %q: want flags only", f.Arg(0))
	}
	if *caches != "" {
		o.caches = strings.Split(*caches, ",")
	}
	if o.quick && o.rounds == 0 {
		o.rounds = 1
	}
	for _, s := range scenarios() {
		if *names == "all" || strings.Contains(","+strings.ToUpper(*names)+",", ","+s.name+",") {
			o.scenarios = append(o.scenarios, s)
		}
	}
	if len(o.scenarios) == 0 {
		return o, fmt.Errorf("-scenario %s: want some of S1 to S8, L1 and L2", *names)
	}
	return o, nil
}

// wanted says whether a cache is measured at all.
func (o options) wanted(a adapters.Adapter) bool {
	if len(o.caches) == 0 && o.quick {
		for _, name := range quickCaches {
			if a.Name == name {
				return true
			}
		}
		return false
	}
	for _, part := range o.caches {
		if part = strings.TrimSpace(part); a.Name == part || len(part) > 3 && strings.Contains(a.Name, part) {
			return true
		}
	}
	return len(o.caches) == 0
}

// plan is one round: the variants in a new random order, and in each the caches in a new
// random order, so that what is compared runs close together.
func (o options) plan(s scenario, round int) (cells []Cell) {
	variants := append([]string(nil), s.variants...)
	rand.Shuffle(len(variants), func(i, j int) { variants[i], variants[j] = variants[j], variants[i] })
	for _, v := range variants {
		all := s.all()
		rand.Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
		for _, a := range all {
			if o.wanted(a) && s.suits(a, v) {
				cells = append(cells, Cell{Scenario: s.name, Variant: v, Cache: a.Name, Round: round, Quick: o.quick})
			}
		}
	}
	return cells
}

func measure(ctx context.Context, s scenario, o options, progress io.Writer) (*report, error) {
	redis, err := startServer(ctx)
	if err != nil {
		return nil, err
	}
	defer redis.close()
	adm, err := dialAdmin(ctx, redis.Addr)
	if err != nil {
		return nil, err
	}
	defer adm.close()
	rounds := o.rounds
	if rounds == 0 {
		rounds = s.rounds
	}
	rep := newReport(s, rounds, o, adm.version())
	for round := 1; round <= rounds; round++ {
		cells := o.plan(s, round)
		for i, c := range cells {
			if err := adm.reset(); err != nil {
				return nil, err
			}
			c.Addr = redis.Addr
			begin := time.Now()
			r := Result{Cell: c}
			if r.Metrics, r.Note, err = runCell(ctx, c); err != nil {
				if ctx.Err() != nil {
					return nil, ctx.Err()
				}
				r.Error = err.Error()
			}
			rep.Results = append(rep.Results, r)
			fmt.Fprintf(progress, "%s round %d/%d cell %d/%d  %s, %s  %.1f s %s\n", s.name, round, rounds, i+1, len(cells),
				c.Variant, c.Cache, time.Since(begin).Seconds(), r.Error+r.Note)
		}
	}
	return rep, nil
}

// cellLimit is far beyond what any cell takes.
const cellLimit = 3 * time.Minute

// runCell runs one cell in a process of its own. The note is what it wrote to stderr.
func runCell(ctx context.Context, c Cell) (m Metrics, note string, err error) {
	ctx, cancel := context.WithTimeout(ctx, cellLimit)
	defer cancel()
	cmd, err := childCommand(ctx, childCell{Cell: c, Addr: c.Addr, Quick: c.Quick, Smoke: c.Smoke})
	if err != nil {
		return nil, "", err
	}
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	err = cmd.Run()
	note = strings.TrimSpace(errs.String())
	if len(note) > 2000 {
		note = note[:2000] + "…"
	}
	if err != nil {
		return nil, "", fmt.Errorf("%w: %s", err, note)
	}
	if err := json.Unmarshal(out.Bytes(), &m); err != nil {
		return nil, note, fmt.Errorf("output %q: %w", out.String(), err)
	}
	return m, note, nil
}

func (r *report) save(dir string) error {
	b, err := json.MarshalIndent(r, "", " ")
	if err != nil {
		return err
	}
	path := filepath.Join(dir, "results", r.Scenario+".json")
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	return os.WriteFile(path, append(b, '\n'), 0o644)
}
