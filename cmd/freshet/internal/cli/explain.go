package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/freshetdev/freshet/cmd/freshet/internal/accesslog"
)

func explainCommand() *cobra.Command {
	var admin string
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "explain KEY",
		Short: "Say for which change of the database a key or tag was dropped last",
		Long: `Explain asks a freshet watch that runs with --admin for the last change that touched a key or a tag: which table, what was done to it,
by which rule and in which transaction, and when. It remembers the last 4,096 names; of several that watch a database, ask the one that works.

It exits with 0 if there is such a change, and with 1 if none is remembered or nobody answers.`,
		Example: "  freshet explain user:1:profile\n  freshet explain users:1 --admin http://10.0.0.7:8081 --json",
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) != 1 {
				return usagef("%d arguments; want one, a key or a tag", len(args))
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			return runExplain(cmd.Context(), cmd.OutOrStdout(), admin, args[0], asJSON)
		},
	}
	f := cmd.Flags()
	f.SortFlags = false
	f.StringVar(&admin, "admin", "http://127.0.0.1:8081", "`URL` of the watch's --admin; http:// may be left out")
	f.BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

// explainTime is what the other side gets to answer.
const explainTime = 5 * time.Second

func runExplain(ctx context.Context, stdout io.Writer, admin, name string, asJSON bool) error {
	if !strings.Contains(admin, "://") {
		admin = "http://" + admin
	}
	u, err := url.Parse(admin)
	if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
		return usagef("--admin %s: want a URL such as http://127.0.0.1:8081", maskUserinfo(admin))
	}
	ask := u.JoinPath("explain")
	ask.RawQuery = url.Values{"name": {name}}.Encode()
	ctx, cancel := context.WithTimeout(ctx, explainTime)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, ask.String(), nil)
	if err != nil {
		return err
	}
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	resp, err := client.Do(req)
	if err != nil {
		if _, ok := errors.AsType[*url.Error](err); ok {
			err = errors.Unwrap(err) // it names the URL again
		}
		return fmt.Errorf("no answer from %s: %w; does freshet watch run, with --admin?", u.Redacted(), err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	if err != nil {
		return fmt.Errorf("no answer from %s: %w", u.Redacted(), err)
	}
	return printExplained(stdout, resp.StatusCode, body, u.Redacted(), asJSON)
}

func printExplained(stdout io.Writer, status int, body []byte, from string, asJSON bool) error {
	var x struct {
		explained
		Error string `json:"error"`
	}
	err := json.Unmarshal(body, &x)
	if err != nil || x.Name == "" || status != http.StatusOK && status != http.StatusNotFound {
		return fmt.Errorf("%s answers %d, and not as freshet watch does; is --admin right?", from, status)
	}
	if asJSON {
		fmt.Fprintln(stdout, string(bytes.TrimSpace(body)))
	}
	switch {
	case status == http.StatusNotFound && asJSON:
		return errFound{}
	case status == http.StatusNotFound:
		return fmt.Errorf("%s: %s", x.Name, x.Error)
	case !asJSON:
		fmt.Fprint(stdout, x.text())
	}
	return nil
}

// text tells it in lines:
//
//	user:1:profile
//	  dropped      2026-11-23 15:04:05.123 UTC, 1.2 ms after the commit
//	  change       update of public.users
//	  rule         1 of shop
//	  transaction  742, at 0/15D8F20
func (x explained) text() string {
	var b strings.Builder
	line := func(name, value string) { fmt.Fprintf(&b, "  %-11s  %s\n", name, value) }
	fmt.Fprintln(&b, x.Name)
	when := x.Applied.UTC().Format("2006-01-02 15:04:05.000 MST")
	if x.Committed != nil {
		if after := x.Applied.Sub(*x.Committed); after >= 0 { // clocks differ
			when += ", " + accesslog.Short(after) + " after the commit"
		}
	}
	line("dropped", when)
	switch {
	case x.Op != "" && x.Table != "":
		line("change", x.Op+" of "+x.Table)
	case x.Op != "":
		line("change", x.Op)
	}
	switch {
	case x.Rule > 0:
		line("rule", fmt.Sprintf("%d of %s", x.Rule, x.Source))
	default:
		line("source", x.Source)
	}
	if x.Why != "" {
		line("coarser", "than by name: "+x.Why)
	}
	if x.Transaction != "" || x.Position != "" {
		tx := x.Transaction
		if x.Position != "" {
			tx = strings.TrimPrefix(tx+", at "+x.Position, ", ")
		}
		line("transaction", tx)
	}
	return b.String()
}
