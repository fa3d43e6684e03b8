package cli

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/freshetdev/freshet/cdc"
	"github.com/freshetdev/freshet/store"
	"github.com/freshetdev/freshet/store/redisstore"
)

func doctorCommand() *cobra.Command {
	var file string
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "doctor",
		Short: "Say what is stuck or wrong right now, what follows from it, and what to do",
		Long: `Doctor looks at the databases and the store of freshet.yaml as check does, and at how it goes: whether a pump works,
whether a slot is stuck and what holds it, how long the binary log is kept, what Redis evicts, and which counters never expire. It changes nothing.
It looks twice at some things, so it takes a few seconds.

It exits with 0 if nothing is wrong (warnings are fine) and with 1 if something is.`,
		Example: "  freshet doctor -c freshet.yaml",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return runDoctor(cmd.Context(), cmd.OutOrStdout(), file, asJSON)
		},
	}
	f := cmd.Flags()
	f.StringVarP(&file, "config", "c", defaultFile, "`file` that says where databases and store are")
	f.BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

func runDoctor(ctx context.Context, stdout io.Writer, file string, asJSON bool) error {
	r := &findings{File: file}
	c, all, s, err := r.load()
	if err != nil {
		return err
	}
	if s == nil {
		return r.print(stdout, asJSON)
	}
	defer s.Close()
	found := checkStore(ctx, c, s)
	up := !slices.ContainsFunc(found, func(f finding) bool { return strings.Contains(f.What, "doesn't answer") })
	if up {
		found = append(found, counterFindings(ctx, s)...)
	}
	r.add("store", found...)
	for _, f := range all {
		found := slices.DeleteFunc(checkSource(ctx, c, f), func(f finding) bool { return f.Level == levelFine })
		look, cancel := context.WithTimeout(ctx, lookTime)
		var mark store.Mark
		if up {
			mark, _ = s.Mark(look, 0, f.Name) // if it fails, markFindings says so
		}
		health, err := f.db.health(look, cdc.Position(mark.Pos))
		if err != nil && len(found) == 0 {
			found = append(found, bad(fmt.Sprintf("can't look at how the database is: %v", err), "", ""))
		}
		found = append(found, health...)
		if up {
			found = append(found, markFindings(look, s, f)...)
		}
		cancel()
		r.add(f.Name, found...)
	}
	return r.print(stdout, asJSON)
}

// markFindings says whether a pump works, by whether its mark moves.
func markFindings(ctx context.Context, s *redisstore.Store, f followed) []finding {
	wait := max(between, 10*f.Tick)
	before, err := s.Mark(ctx, 0, f.Name)
	if err == nil {
		err = pause(ctx, wait)
	}
	var now store.Mark
	if err == nil {
		now, err = s.Mark(ctx, 0, f.Name)
	}
	switch {
	case err != nil:
		return []finding{bad(fmt.Sprintf("can't read how far the changes were applied: %v", err), "", "")}
	case now == store.Mark{}:
		return []finding{warning("the store has no mark of "+f.Name+": no pump has worked on it, or it was lost", "the next pump to start drops everything once", "start freshet watch")}
	case now.Seq == before.Seq:
		return []finding{bad("no pump works: the mark of "+f.Name+" in the store stands still for "+readable(wait),
			"changes of the database are not applied, and what is cached of them is old", "start freshet watch, or look at its log if it runs")}
	case now.Cert == before.Cert:
		return []finding{bad("a pump writes its mark, and gets no further: nothing was certified for "+readable(wait),
			"it waits for the database: a commit that no standby acknowledges, or a query that hangs", "look at the log of freshet watch, and at "+f.db.hung())}
	}
	owner, _, _ := strings.Cut(now.Owner, ":")
	return []finding{fine(fmt.Sprintf("a pump (%s) works, and is certified up to tick %d", owner, now.Cert))}
}

// someKeys is how many keys doctor looks at for counters: a second or two of a server's time, in steps of 100 us.
const someKeys = 200_000

// counterFindings names counters that never expire, by what their names begin with.
func counterFindings(ctx context.Context, s *redisstore.Store) (all []finding) {
	ctx, cancel := context.WithTimeout(ctx, lookTime)
	defer cancel()
	found, looked, err := s.Counters(ctx, someKeys)
	if err != nil {
		all = append(all, warning(fmt.Sprintf("can't look for counters that never expire: %v", err), "", "let the user of store.url run SCAN, PTTL, STRLEN and GET"))
	}
	type group struct {
		begin   string
		example redisstore.Counter
		n       int
	}
	var groups []*group
	for _, c := range found {
		begin := c.Key[:strings.LastIndexByte(c.Key, ':')+1]
		at := slices.IndexFunc(groups, func(g *group) bool { return g.begin == begin })
		if at < 0 {
			groups = append(groups, &group{begin: begin})
			at = len(groups) - 1
		}
		g := groups[at]
		if g.n++; g.example.Key == "" || c.Key < g.example.Key {
			g.example = c
		}
	}
	slices.SortFunc(groups, func(a, b *group) int {
		if a.n != b.n {
			return b.n - a.n
		}
		return strings.Compare(a.begin, b.begin)
	})
	const most = 5
	for i, g := range groups {
		if i == most {
			all = append(all, warning(fmt.Sprintf("and %s more of other names", count(len(groups)-most, "kind")), "", ""))
			break
		}
		what := fmt.Sprintf("key %q holds the number %d and never expires", g.example.Key, g.example.Value)
		if g.n > 1 {
			what += fmt.Sprintf("; so do %d others that begin with %q", g.n-1, g.begin)
		}
		all = append(all, warning(what,
			"if it counts requests of a client (INCR, then EXPIRE), the EXPIRE never came, and once it is over the limit the client is locked out for good",
			fmt.Sprintf("if it is one: EXPIRE %q 60, or DEL; count and set the expiry in one script, or let freshet limit", g.example.Key)))
	}
	if looked >= someKeys {
		all = append(all, fine(fmt.Sprintf("looked at %d keys for counters that never expire, and not at the rest", looked)))
	}
	return all
}
