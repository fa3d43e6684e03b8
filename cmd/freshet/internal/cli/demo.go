package cli

import (
	"context"
	"io"
	"net"
	"net/http"
	"net/url"
	"sync"
	"time"

	"github.com/spf13/cobra"

	"github.com/freshetdev/freshet/cmd/freshet/internal/accesslog"
	"github.com/freshetdev/freshet/cmd/freshet/internal/demo"
	"github.com/freshetdev/freshet/cmd/freshet/internal/proxy"
)

func demoCommand() *cobra.Command {
	format := logFormat(accesslog.Text)
	demoLimit, err := parseRate("60/m")
	if err != nil {
		panic(err) // TestDemo would have seen it
	}
	g := &gateway{
		limits: limits{rates: rates{demoLimit}, by: identity{kind: "ip"}},
		ttl:    30 * time.Second, grace: 0, store: "memory:", staleAtMost: time.Second, timeout: 30 * time.Second,
		maxBody: proxy.DefaultMaxBody, maxMemory: 64 << 20,
		label: "demo API (" + readable(demo.Delay) + " a read)", try: tryDemo,
	}
	cmd := &cobra.Command{
		Use:   "demo",
		Short: "Start the gateway with a slow API behind it, to try it out",
		Long: `Demo starts a gateway and, behind it, an API of user profiles that takes its time.
It needs nothing else: no Redis, no database. Ctrl-C ends it and sums up.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			g.anyPort = !cmd.Flags().Changed("listen")
			g.format = accesslog.Format(format)
			return g.runDemo(cmd.Context(), cmd.OutOrStdout(), cmd.ErrOrStderr())
		},
	}
	f := cmd.Flags()
	f.StringVarP(&g.listen, "listen", "l", "127.0.0.1:8080", "`address` to listen on; the default gives way if it is taken")
	f.Var(&format, "log", "auto, text, json or off")
	return cmd
}

// runDemo runs the gateway in front of the demo API, on a port that the kernel picks.
func (g *gateway) runDemo(ctx context.Context, stdout, stderr io.Writer) error {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	g.upstream = &url.URL{Scheme: "http", Host: l.Addr().String()}
	api := &http.Server{Handler: demo.New(), ReadHeaderTimeout: 10 * time.Second}
	var wg sync.WaitGroup
	wg.Go(func() { _ = api.Serve(l) }) // ends with Close
	defer wg.Wait()
	defer api.Close()
	return g.run(ctx, stdout, stderr)
}

func tryDemo(gateway string) []string {
	user := gateway + "/users/1"
	return []string{
		"curl -i " + user + "        # 100 ms, and stored",
		"curl -i " + user + "        # from the cache",
		"curl -X PUT " + user + " -d '{\"name\":\"Grace\"}'   # a write drops it",
		"curl -i " + user + "        # so this is fresh again",
		"curl -si '" + user + "#[1-70]' | tail -n 10   # 70 times: over the limit",
	}
}
