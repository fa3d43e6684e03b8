package cli

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/url"
	"sync"
	"sync/atomic"
	"time"

	"github.com/spf13/cobra"

	"github.com/freshetdev/freshet/cdc"
	"github.com/freshetdev/freshet/cdc/sqlitecdc"
	"github.com/freshetdev/freshet/cmd/freshet/internal/accesslog"
	"github.com/freshetdev/freshet/cmd/freshet/internal/demo"
	"github.com/freshetdev/freshet/cmd/freshet/internal/proxy"
	"github.com/freshetdev/freshet/store/memstore"
)

func demoCommand() *cobra.Command {
	format := logFormat(accesslog.Text)
	demoLimit, err := parseRate("60/m")
	if err != nil {
		panic(err) // TestDemo would have seen it
	}
	g := &gateway{
		listen: "127.0.0.1:8080",
		limits: limits{rates: rates{demoLimit}, by: identity{kind: "ip"}},
		ttl:    30 * time.Second, grace: 0, store: "memory:", staleAtMost: time.Second, timeout: 30 * time.Second,
		maxBody: proxy.DefaultMaxBody, maxMemory: 64 << 20,
		label: "demo API (" + readable(demo.Delay) + " a read)", try: tryDemo,
	}
	cmd := &cobra.Command{
		Use:   "demo",
		Short: "Start the gateway with a slow API behind it, to try it out",
		Long: `Demo starts a gateway and, behind it, an API of user profiles that takes its time. They lie in an SQLite file, whose
changes the gateway follows: whatever program makes one, answers that depend on it are dropped. It needs nothing else. Ctrl-C ends it, removes the
file and sums up.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			g.anyPort = !cmd.Flags().Changed("listen")
			g.format = accesslog.Format(format)
			return g.runDemo(cmd.Context(), cmd.OutOrStdout(), cmd.ErrOrStderr())
		},
	}
	cmd.AddCommand(demoSQLCommand())
	f := cmd.Flags()
	f.VarP(&g.listen, "listen", "l", "where to listen: host:port, or a port alone for 127.0.0.1; the default gives way if it is taken")
	f.Var(&format, "log", "auto, text, json or off")
	return cmd
}

func demoSQLCommand() *cobra.Command {
	file := ""
	cmd := &cobra.Command{
		Use:   "sql STATEMENT",
		Short: "Run a statement of SQL on the demo's database, past gateway and API",
		Long: `Sql opens the file of a demo that runs elsewhere, as any other program could, and runs one statement on it. If
that changed something it returns once the gateway has dropped what depends on it.`,
		Example: `  freshet demo sql "UPDATE users SET name = 'Grace' WHERE id = 1"
  freshet demo sql "SELECT * FROM users LIMIT 3"`,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) != 1 {
				return usagef("%d arguments; want one, a statement in quotes", len(args))
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) (err error) {
			if file == "" {
				if file, err = demo.Newest(); err != nil {
					return err
				}
			}
			return demo.Run(cmd.Context(), file, args[0], cmd.OutOrStdout())
		},
	}
	cmd.Flags().StringVar(&file, "db", "", "`file` of the demo; default that of the one that was started last")
	return cmd
}

// runDemo runs the gateway in front of the demo API, on a port that the kernel picks, and beside it a pump that follows the API's database.
func (g *gateway) runDemo(ctx context.Context, stdout, stderr io.Writer) (err error) {
	path, db, remove, err := demo.Create(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, remove()) }()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	f, err := newFollower(path)
	if err != nil {
		return errors.Join(err, l.Close())
	}
	g.shared, g.beside = f.server.Connect(), f.start
	g.upstream = &url.URL{Scheme: "http", Host: l.Addr().String()}
	g.notes = [][2]string{{"database", path + " (SQLite)"}}
	api := &http.Server{Handler: demo.New(db, f.applied), ReadHeaderTimeout: 10 * time.Second}
	var wg sync.WaitGroup
	wg.Go(func() { _ = api.Serve(l) }) // ends with Close
	defer wg.Wait()
	defer api.Close()
	return g.run(ctx, stdout, stderr)
}

// A follower is the pump of a demo: it drops in the gateway's store what depends on rows that changed.
type follower struct {
	server *memstore.Server
	source *sqlitecdc.Source
	rules  *cdc.Rules
	pump   atomic.Pointer[cdc.Pump]
}

func newFollower(path string) (*follower, error) {
	rules, err := cdc.NewRules([]cdc.Rule{{Table: "users", Tags: []string{"users:{id}"}}})
	if err != nil {
		return nil, err
	}
	source, err := sqlitecdc.New(demo.Driver, demo.DSN(path), sqlitecdc.Options{Match: rules.Match})
	if err != nil {
		return nil, err
	}
	return &follower{server: memstore.NewServer(memstore.Options{}), source: source, rules: rules}, nil
}

// start starts the pump, and returns once it follows: what comes first is that everything is dropped.
func (f *follower) start(logs *accesslog.Log) (stop func(), err error) {
	shared := f.server.Connect()
	applier, err := cdc.NewApplier(shared)
	if err != nil {
		return nil, err
	}
	l := newPumpLog(logs.Logger, logs.Format == accesslog.Off)
	pump, err := cdc.NewPump(f.source, applier, cdc.Options{
		Name: "demo", Rules: f.rules, Hooks: l.hooks(),
		HoldBack: time.Millisecond, // the store can't lose anything without us, and demo.Run waits for it
	})
	if err != nil {
		return nil, err
	}
	f.pump.Store(pump)
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() { l.run(ctx) })
	wg.Go(func() { _ = pump.Run(ctx) }) // without GapStop it has no error
	f.applied(ctx)
	return func() {
		cancel()
		wg.Wait()
		_ = shared.Close() // in memory
	}, nil
}

// applied waits until what is committed now is dropped. A pump that can't follow keeps nobody waiting for long.
func (f *follower) applied(ctx context.Context) {
	now := time.Now()
	f.source.Notify()
	for time.Since(now) < 3*time.Second && ctx.Err() == nil && !f.pump.Load().Stats().LastTick.After(now) {
		time.Sleep(2 * time.Millisecond)
	}
}

func tryDemo(gateway string) []string {
	user := gateway + "/users/1"
	return []string{
		"curl -i " + user + "        # 100 ms, and stored",
		"curl -i " + user + "        # from the cache",
		"curl -X PUT " + user + " -d '{\"name\":\"Grace\"}'   # a write drops it",
		"curl -i " + user + "        # so this is fresh again",
		self() + " demo sql \"UPDATE users SET name = 'Lin' WHERE id = 1\"   # a write that no HTTP tells of",
		"curl -i " + user + "        # fresh, too: the database told",
		"curl -si '" + user + "#[1-70]' | tail -n 10   # 70 times: over the limit",
	}
}
