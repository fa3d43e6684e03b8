package cli

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/freshetdev/freshet/cdc"
	"github.com/freshetdev/freshet/cmd/freshet/internal/config"
	"github.com/freshetdev/freshet/store/redisstore"
)

// defaultFile is what -c is without being given.
const defaultFile = "freshet.yaml"

// lookTime bounds a check or doctor of one server.
const lookTime = 20 * time.Second

func checkCommand() *cobra.Command {
	var file string
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "check",
		Short: "Compare freshet.yaml with the database and Redis, and print the statements to run",
		Long: `Check reads freshet.yaml and looks at the databases and the store that it names: settings, rights, slot, publication,
replica identities, the tables and columns of the rules, Redis. It changes nothing. What is missing is printed with
the statement that mends it.

It exits with 0 if nothing is wrong (warnings are fine) and with 1 if something is.`,
		Example: "  freshet check -c freshet.yaml",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return runCheck(cmd.Context(), cmd.OutOrStdout(), file, asJSON)
		},
	}
	f := cmd.Flags()
	f.StringVarP(&file, "config", "c", defaultFile, "`file` to check")
	f.BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

func runCheck(ctx context.Context, stdout io.Writer, file string, asJSON bool) error {
	r := &findings{File: file}
	c, all, s, err := r.load()
	if err != nil {
		return err
	}
	if s != nil {
		defer s.Close()
		r.add("store", checkStore(ctx, c, s)...)
		for _, f := range all {
			r.add(f.Name, checkSource(ctx, c, f)...)
		}
	}
	return r.print(stdout, asJSON)
}

// lookBudget is how long one operation of the store may take for check and doctor, which are in no hurry.
const lookBudget = 2 * time.Second

// openStore opens the store of a file. It connects in the background.
func openStore(c *config.Config, budget time.Duration) (*redisstore.Store, error) {
	if strings.HasPrefix(string(c.Store.URL), "memory:") {
		return nil, c.Mistake("store.url", "is memory:, which no other program sees; want Redis, such as redis://localhost:6379")
	}
	s, err := redisstore.Open(c.Store.URL.Reveal(), redisstore.Options{Prefix: c.Store.Prefix, Budget: budget, Name: "freshet-watch"})
	if err != nil {
		return nil, c.Mistake("store.url", "is wrong: "+err.Error())
	}
	return s, nil
}

// checkStore says whether the store can be used.
func checkStore(ctx context.Context, c *config.Config, s *redisstore.Store) (all []finding) {
	ctx, cancel := context.WithTimeout(ctx, lookTime)
	defer cancel()
	if err := awaitStore(ctx, s); err != nil {
		return append(all, bad(fmt.Sprintf("%s doesn't answer: %v", c.Store.URL, err), "drops wait until it does", "start Redis, or mend store.url, line "+fmt.Sprint(c.Line("store.url"))))
	}
	servers, err := s.Inspect(ctx)
	if err != nil {
		return append(all, warning(fmt.Sprintf("can't look at the server's settings: %v", err), "", "let the user of store.url run INFO"))
	}
	for _, server := range servers {
		all = append(all, serverFindings(server)...)
	}
	if all == nil {
		all = append(all, fine(fmt.Sprintf("%s answers: version %s", c.Store.URL, servers[0].Version)))
	}
	return all
}

// awaitStore returns when the store answers.
func awaitStore(ctx context.Context, s *redisstore.Store) error {
	end := time.Now().Add(3 * time.Second)
	for {
		_, err := s.Mark(ctx, 0, "freshet-check")
		if err == nil || ctx.Err() != nil || time.Now().After(end) {
			return err
		}
		if pause(ctx, 20*time.Millisecond) != nil {
			return err
		}
	}
}

// serverFindings says what is wrong with the settings of a server.
func serverFindings(s redisstore.Server) (all []finding) {
	who := "Redis"
	if s.Addr != "" {
		who += " at " + s.Addr
	}
	var major, minor int
	if _, err := fmt.Sscanf(s.Version, "%d.%d", &major, &minor); err == nil && (major < 6 || major == 6 && minor < 2) {
		all = append(all, bad(who+" is version "+s.Version+"; want 6.2 or later, or Valkey", "", "install a later one"))
	}
	if s.MaxMemory > 0 && strings.HasPrefix(s.Policy, "allkeys-") {
		all = append(all, warning(fmt.Sprintf("%s evicts any key when its memory is full: maxmemory-policy is %s", who, s.Policy),
			"among them may be the mark of how far the changes were applied; then everything is dropped once. Nothing old is served for it",
			"CONFIG SET maxmemory-policy volatile-lfu (or volatile-ttl, if it keeps limits too)"))
	}
	if s.MaxMemory > 0 && s.Policy == "noeviction" && s.UsedMemory > s.MaxMemory*9/10 {
		all = append(all, bad(fmt.Sprintf("the memory of %s is nearly full (%d of %d bytes), and it evicts nothing: maxmemory-policy is noeviction", who, s.UsedMemory, s.MaxMemory),
			"when it is full, writes fail, and drops with them: they wait, and what is cached is old", "give it more maxmemory, or: CONFIG SET maxmemory-policy volatile-lfu"))
	}
	return all
}

// checkSource says whether a source can be followed, and its rules be kept.
func checkSource(ctx context.Context, c *config.Config, f followed) (all []finding) {
	ctx, cancel := context.WithTimeout(ctx, lookTime)
	defer cancel()
	problems, err := f.db.check(ctx)
	if err != nil {
		return append(all, bad(fmt.Sprintf("can't look at %s: %v", f.URL, err), "", fmt.Sprintf("mend cdc.%s.%s.url, line %d, or the database", f.Name, f.Kind, c.Line("cdc."+f.Name+"."+f.Kind+".url"))))
	}
	broken := map[string]bool{} // tables that can't be followed
	for _, p := range problems {
		what := p.Text
		if p.Table != "" {
			what = p.Table + ": " + what
		}
		level := levelProblem
		if p.Warning {
			level = levelWarning
		} else if p.Table != "" {
			broken[p.Table] = true
		}
		all = append(all, finding{Level: level, What: what, Fix: p.Fix})
	}
	var names []string // of all tables of the database
	tables, err := f.db.tables(ctx, func(schema, name string) bool {
		if full := schema + "." + name; !slices.Contains(names, full) {
			names = append(names, full)
		}
		return f.rules.Match(schema, name)
	})
	if err != nil {
		return append(all, bad(fmt.Sprintf("can't compare the rules with the tables: %v", err), "", "mend what else was found, and check again"))
	}
	all = append(all, ruleFindings(c, f, tables, names, broken)...)
	if !slices.ContainsFunc(all, func(f finding) bool { return f.Level == levelProblem }) {
		all = append(all, fine(fmt.Sprintf("%s can be followed: %s, %s", f.URL, count(len(f.Rules), "rule"), count(len(tables), "table"))))
	}
	return all
}

// ruleFindings compares rules with tables.
func ruleFindings(c *config.Config, f followed, tables []*cdc.Table, names []string, broken map[string]bool) (all []finding) {
	for _, p := range f.rules.Check(tables) {
		rule := f.Rules[p.Rule]
		described := slices.IndexFunc(tables, func(t *cdc.Table) bool { return t.String() == p.Table })
		fix := p.Fix
		switch {
		case p.Column == "" && described < 0: // no table has the name
			if slices.ContainsFunc(names, func(n string) bool { return broken[n] && matches(rule, n) }) {
				continue // it is there, and was complained of
			}
			fix = cmp.Or(suggest(rule.Table, names), fix)
		case described >= 0 && fix == "":
			var columns []string
			for _, col := range tables[described].Columns {
				columns = append(columns, col.Name)
			}
			if !slices.Contains(columns, strings.TrimSuffix(p.Column, "?")) {
				fix = suggest(p.Column, columns)
			}
		}
		subject := p.Table
		if p.Column != "" {
			subject += "." + p.Column
		}
		level := levelProblem
		if p.Warning {
			level = levelWarning
		}
		all = append(all, finding{
			Level: level, Line: c.Line(fmt.Sprintf("cdc.%s.rules[%d]", f.Name, p.Rule)),
			What: fmt.Sprintf("rule %d, %s: %s", p.Rule+1, subject, p.Text), Fix: fix,
		})
	}
	return all
}

// matches reports whether a rule names a table, "schema.table".
func matches(rule cdc.Rule, table string) bool {
	one, err := cdc.NewRules([]cdc.Rule{rule})
	if err != nil {
		return false
	}
	schema, name, _ := strings.Cut(table, ".")
	return one.Match(schema, name)
}

// suggest says which name was meant, or what there is.
func suggest(name string, there []string) string {
	if best := config.Nearest(name, there); best != "" {
		return "did you mean " + best + "?"
	}
	for _, t := range there { // the schema was left out, or another one was given
		if _, bare, ok := strings.Cut(t, "."); ok && bare == name[strings.LastIndexByte(name, '.')+1:] {
			return "did you mean " + t + "?"
		}
	}
	const some = 12
	if len(there) == 0 {
		return ""
	}
	slices.Sort(there)
	if len(there) > some {
		return fmt.Sprintf("there are %s and %d more", strings.Join(there[:some], ", "), len(there)-some)
	}
	return "there are " + strings.Join(there, ", ")
}
