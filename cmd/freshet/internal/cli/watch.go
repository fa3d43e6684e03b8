package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/spf13/cobra"

	"github.com/freshetdev/freshet/cdc"
	"github.com/freshetdev/freshet/cmd/freshet/internal/accesslog"
	"github.com/freshetdev/freshet/cmd/freshet/internal/config"
	"github.com/freshetdev/freshet/store"
	"github.com/freshetdev/freshet/store/redisstore"
)

func watchCommand() *cobra.Command {
	w := &watch{}
	format := logFormat(accesslog.Auto)
	cmd := &cobra.Command{
		Use:   "watch",
		Short: "Follow the changes of a database, and drop in Redis what depends on them",
		Long: `Watch follows the changes of the databases in freshet.yaml, whoever makes them, and applies its rules: tags of freshet
are dropped, keys of any program deleted, messages published. Programs need no line for it: they read and
fill their keys in Redis as before.

Several may run: one works, the others stand by. If Redis or the database is away, watch waits for it; nothing is lost
meanwhile. SIGTERM and Ctrl-C end it once what was committed before is applied, in at most 10 s; a second one ends it at once.

It exits with 0 after that, and with 1 if the file is wrong, or if part of the changes is gone and on_gap is stop.`,
		Example: "  freshet check -c freshet.yaml\n  freshet watch -c freshet.yaml",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			w.format = accesslog.Format(format)
			return w.run(cmd.Context(), cmd.OutOrStdout(), cmd.ErrOrStderr())
		},
	}
	f := cmd.Flags()
	f.SortFlags = false
	f.StringVarP(&w.file, "config", "c", defaultFile, "`file` that names store, databases and rules")
	f.Var(&w.admin, "admin", "address for /healthz, /metrics and /explain, such as 127.0.0.1:8081; nobody is asked who they are. Default: none")
	f.Var(&format, "log", "auto, text, json or off (warnings alone); auto is text on a terminal and json elsewhere")
	return cmd
}

// A watch is one run of freshet watch.
type watch struct {
	file   string
	admin  address
	format accesslog.Format
}

// A pumped is a source at work.
type pumped struct {
	followed
	file *config.Config // where it stands
	path string         // of that
	pump *cdc.Pump
	log  *pumpLog
}

// run pumps until ctx ends. The banner and the summary go to stdout, log lines to stderr.
func (w *watch) run(ctx context.Context, stdout, stderr io.Writer) error {
	logs := accesslog.New(stderr, w.format)
	c, err := config.Load(w.file, os.LookupEnv)
	if err != nil {
		return err
	}
	all, err := open(c)
	if err != nil {
		return err
	}
	shared, err := openStore(c, c.Store.Timeout)
	if err != nil {
		return err
	}
	defer shared.Close()
	var pumps []*pumped
	for _, f := range all {
		p, err := newPumped(f, shared, logs)
		if err != nil {
			return err
		}
		p.file, p.path = c, w.file
		pumps = append(pumps, p)
	}
	stopAdmin, err := w.serveAdmin(pumps, logs)
	if err != nil {
		return err
	}
	defer stopAdmin()
	w.hello(stdout, logs, c, pumps)
	first, tell := make(chan struct{}), linkLog(logs)
	tried := sync.OnceFunc(func() { close(first) })
	defer shared.Watch(store.Watcher{Link: func(l store.Link) {
		tell(l)
		tried()
	}})()
	select { // the pumps would find no link yet, and complain
	case <-first:
	case <-time.After(connectWait):
	case <-ctx.Done():
	}

	err = runAll(ctx, pumps, logs)
	for _, p := range pumps {
		p.goodbye(stdout, logs)
	}
	return err
}

func newPumped(f followed, shared *redisstore.Store, logs *accesslog.Log) (*pumped, error) {
	applier, err := cdc.NewApplier(shared)
	if err != nil {
		return nil, err
	}
	host, _ := os.Hostname() // for people
	if strings.ContainsAny(host, " \t\r\n") {
		host = ""
	}
	l := newPumpLog(logs.With("source", f.Name), logs.Format == accesslog.Off)
	pump, err := cdc.NewPump(f.db.source(), applier, cdc.Options{
		Name: f.Name, Rules: f.rules, Owner: host, Tick: f.Tick, HoldBack: f.HoldBack, Batch: f.Batch, OnGap: f.OnGap, TakeOver: f.TakeOver, Again: f.Again,
		Hooks: l.hooks(),
	})
	if err != nil {
		return nil, err
	}
	return &pumped{followed: f, pump: pump, log: l}, nil
}

// runAll runs all pumps until ctx ends, or one of them does. It returns when all have ended.
func runAll(ctx context.Context, pumps []*pumped, logs *accesslog.Log) error {
	ctx, end := context.WithCancel(ctx)
	defer end()
	errs := make([]error, len(pumps))
	var wg sync.WaitGroup
	for i, p := range pumps {
		wg.Go(func() {
			errs[i] = p.run(ctx, logs)
			end()
		})
	}
	wg.Wait()
	return errors.Join(errs...)
}

// run pumps until ctx ends, and then for as long as it takes to apply what was committed before.
func (p *pumped) run(ctx context.Context, logs *accesslog.Log) error {
	working, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	done := make(chan error, 1)
	var helpers sync.WaitGroup
	helpers.Go(func() { p.log.run(working) })
	helpers.Go(func() { p.check(working) })
	helpers.Go(func() { done <- p.pump.Run(working) })
	var err error
	select {
	case err = <-done:
	case <-ctx.Done():
		if !p.finish(drainTime) {
			logs.Warn("ended before all changes were applied; the next pump reads them again", "source", p.Name)
		}
		stop()
		err = <-done
	}
	stop()
	helpers.Wait()
	return err
}

// check tells what freshet check would find, each time that the source was opened: a rule for a table that isn't there drops nothing, and
// the pump can't tell it from one whose table is quiet. The pump works meanwhile.
func (p *pumped) check(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-p.log.opened:
		}
		if all := checkSource(ctx, p.file, p.followed); ctx.Err() == nil {
			p.log.found(p.path, all)
		}
	}
}

// finish waits until what was committed before now is applied, keys deleted a second time included. It reports whether that came about. A
// pump that stands by, or can't work, has nothing to finish.
func (p *pumped) finish(most time.Duration) bool {
	const look = 5 * time.Millisecond
	began := time.Now()
	for {
		s := p.pump.Stats()
		switch {
		case s.State != cdc.Running:
			return s.State == cdc.Standby || s.Txs == 0
		case s.LastTick.After(began): // all that was visible then is applied
			time.Sleep(look) // the hook comes a moment after
			o := p.pump.Options()
			if again := p.log.lastKeys().Add(o.Again); time.Until(again) > 0 {
				time.Sleep(min(time.Until(again)+2*o.Tick, most-time.Since(began)))
			}
			return true
		case time.Since(began) > most:
			return false
		}
		time.Sleep(look)
	}
}

// hello says what is followed.
func (w *watch) hello(stdout io.Writer, logs *accesslog.Log, c *config.Config, pumps []*pumped) {
	if logs.Format == accesslog.JSON {
		for _, p := range pumps {
			logs.Info("watching", "source", p.Name, "database", p.URL.String(), "rules", len(p.Rules), "store", c.Store.URL.String(), "version", versionString())
		}
		return
	}
	name := fmt.Sprintf("freshet %s  ", versionString())
	indent := strings.Repeat(" ", len(name))
	for _, p := range pumps {
		fmt.Fprintf(stdout, "%swatching %s  %s  %s\n", name, p.Name, p.URL, count(len(p.Rules), "rule"))
		name = indent
	}
	fmt.Fprintf(stdout, "%sstore    %s\n", indent, c.Store.URL)
}

// goodbye sums up.
func (p *pumped) goodbye(stdout io.Writer, logs *accesslog.Log) {
	s := p.pump.Stats()
	if logs.Format == accesslog.JSON {
		facts := []any{slog.String("source", p.Name), slog.Uint64("transactions", s.Txs), slog.Uint64("changes", s.Changes), slog.Uint64("tags", s.Tags), slog.Uint64("keys", s.Keys),
			slog.Uint64("messages", s.Published), slog.Uint64("gaps", s.Gaps)}
		if s.Lag.Count > 0 {
			facts = append(facts, slog.Float64("p50_lag_ms", ms(s.Lag.Quantile(0.5))), slog.Float64("p99_lag_ms", ms(s.Lag.Quantile(0.99))))
		}
		logs.Info("summary", facts...)
		return
	}
	line := fmt.Sprintf("%s: %d changes in %d transactions: %d tags and %d keys dropped, %d messages", p.Name, s.Changes, s.Txs, s.Tags, s.Keys, s.Published)
	if s.Lag.Count > 0 {
		line += fmt.Sprintf("; from commit to drop p50 %s, p99 %s", accesslog.Short(s.Lag.Quantile(0.5)), accesslog.Short(s.Lag.Quantile(0.99)))
	}
	fmt.Fprintln(stdout, line)
}

// connectWait is how long the first link to the store is waited for.
const connectWait = 500 * time.Millisecond

// linkLog tells when the store goes and comes back.
func linkLog(logs *accesslog.Log) func(store.Link) {
	log := newStoreLog(logs, func(err error) { logs.Warn("the store is away: drops wait for it", "error", err) })
	return func(l store.Link) { log.note(l.Up, l.Err) }
}

// A storeLog tells when the store goes, why, and when it comes back.
type storeLog struct {
	logs *accesslog.Log
	away func(error) // tells of it

	mu  sync.Mutex
	why string // it is away; guarded by mu
}

func newStoreLog(logs *accesslog.Log, away func(error)) *storeLog {
	return &storeLog{logs: logs, away: away}
}

func (s *storeLog) note(up bool, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	was, why := s.why, ""
	if !up {
		why = fmt.Sprint(err)
	}
	switch s.why = why; {
	case why == was:
	case up:
		s.logs.Info("the store answers again")
	default:
		s.away(err)
	}
}
