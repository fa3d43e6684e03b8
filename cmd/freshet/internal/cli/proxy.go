package cli

import (
	"time"

	"github.com/spf13/cobra"

	"github.com/freshetdev/freshet/cmd/freshet/internal/accesslog"
	"github.com/freshetdev/freshet/cmd/freshet/internal/proxy"
)

func proxyCommand() *cobra.Command {
	ttl := duration{d: 30 * time.Second}
	grace := duration{zero: true}
	staleAtMost := duration{d: time.Second, min: 50 * time.Millisecond}
	timeout := duration{d: 30 * time.Second}
	maxBody, maxMemory := size{n: proxy.DefaultMaxBody}, size{n: 256 << 20, min: 1 << 20}
	format := logFormat(accesslog.Auto)
	g := &gateway{listen: "127.0.0.1:8080", limits: limits{by: identity{kind: "ip"}}}

	cmd := &cobra.Command{
		Use:   "proxy URL",
		Short: "Put the cache in front of the API at URL",
		Long: `Proxy forwards requests to the API at URL and answers repeated ones from the cache.

Cached are answers 200 to GET and HEAD, by method, host and URL. Requests with
Authorization, Cookie or other credentials, and answers with Set-Cookie or
Cache-Control: private, no-store or no-cache, pass uncached. A max-age or s-maxage
below --ttl is obeyed; stale-if-error and stale-while-revalidate are not: that is --grace.
PUT, POST, PATCH and DELETE pass, and drop what is stored of their URL, host and query
included, unless the API refuses them (4xx) or isn't reached; nothing is known of other
URLs that show the same.

With --limit, what is over a limit is answered with 429 before the cache is asked. A limit
is COUNT/TIME: 100/s, 1000/15m, 5000/d (s, m, h, d). It may go on with ,burst=20 (how many
at once; default the count), ,strict (never more than COUNT in any TIME), ,by=… (instead
of --limit-by) and ,outage=… (while the store is away: allow, deny, or local: count here).
Several limits are taken together or not at all. A request with X-Api-Key or another field
that tells who asks is counted by it if a limit says so, and never answered from the cache.

URL may be a port alone (3000), which means http://localhost:3000. Every answer says in Cache-Status what happened, and why, but for refusals.`,
		Example: `  freshet proxy http://127.0.0.1:3000 --ttl 30s
  freshet proxy localhost:3000 --ttl 1m --grace 5m --store redis://localhost:6379
  freshet proxy 3000 --limit 100/s,burst=20 --limit 50000/d,by=header:X-Api-Key --trusted-proxy 10.0.0.0/8`,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) != 1 {
				return usagef("%d arguments; want one, the URL of the API", len(args))
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			upstream, err := upstreamURL(args[0])
			if err != nil {
				return err
			}
			g.upstream = upstream
			g.ttl, g.grace, g.staleAtMost, g.timeout = ttl.d, grace.d, staleAtMost.d, timeout.d
			g.maxBody, g.maxMemory = maxBody.n, maxMemory.n
			switch {
			case g.maxMemory/someAnswers < g.maxBody:
				return usagef("--max-memory %v: want at least %d times --max-body, which is %v", &maxMemory, someAnswers, &maxBody)
			case cmd.Flags().Changed("limit-by") && len(g.limits.rates) == 0:
				return usagef("--limit-by %v: there is no --limit that would count", &g.limits.by)
			}
			g.format = accesslog.Format(format)
			return g.run(cmd.Context(), cmd.OutOrStdout(), cmd.ErrOrStderr())
		},
	}
	f := cmd.Flags()
	f.SortFlags = false
	f.VarP(&g.listen, "listen", "l", "where to listen: host:port, :port for all addresses of this machine, or a port alone for 127.0.0.1")
	f.Var(&ttl, "ttl", "how long an answer is fresh, unless it says less itself")
	f.Var(&grace, "grace", "how much longer it may be served, while it is refreshed or the API fails")
	f.StringVar(&g.store, "store", "memory:", "`URL` of the shared store: memory:, redis://…, rediss://…, unix://…, redis+sentinel://… or redis+cluster://…")
	f.StringVar(&g.prefix, "prefix", "", "`word` put before all keys, where services share a store")
	f.Var(&staleAtMost, "stale-at-most", "how long after a drop on another gateway an old answer may be served at the very most")
	f.Var(&maxBody, "max-body", "larger bodies are streamed, not stored")
	f.Var(&maxMemory, "max-memory", "memory for answers in this process; with --store memory: the shared level is in it, too, and has one half")
	f.Var(&timeout, "upstream-timeout", "how long the API may take to answer a cacheable request")
	f.Var(&g.limits.rates, "limit", "refuse what is over it, such as 100/s; several can be given")
	f.Var(&g.limits.by, "limit-by", "who is counted: ip, header:X-Api-Key (those without it by ip), or all together")
	f.Var(&g.limits.trusted, "trusted-proxy", "a proxy of yours that says where requests come from, such as 10.0.0.0/8; several can be given")
	f.StringVar(&g.limits.trustedHeader, "trusted-header", "", "the `field` in which it says so: X-Forwarded-For (default), Forwarded, or another")
	f.BoolVar(&g.rewriteHost, "rewrite-host", false, "send the API its own host name, not the client's Host; answers are stored under the client's all the same")
	f.BoolVar(&g.shed, "shed", false, "shed requests before the API is overloaded: it finds out how many the API can work on at a time")
	f.Var(&format, "log", "auto, text, json or off; auto is text on a terminal and json elsewhere")
	return cmd
}
