package cli

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/freshetdev/freshet/cmd/freshet/internal/config"
	"github.com/freshetdev/freshet/store/redisstore"
)

// A finding is one thing that check or doctor has to say.
type finding struct {
	About string `json:"about"`          // "store", or the name of a source; empty: the file
	Level string `json:"level"`          // problem, warning or fine
	Line  int    `json:"line,omitempty"` // of the file
	Key   string `json:"key,omitempty"`  // in the file, if it is about that
	What  string `json:"what"`           // a sentence
	Why   string `json:"why,omitempty"`  // what follows from it
	Fix   string `json:"fix,omitempty"`  // the statement to run, or what else to do

	excerpt string // for people: What, with the place in the file
}

// Levels of findings. A problem makes the exit code 1.
const (
	levelProblem = "problem"
	levelWarning = "warning"
	levelFine    = "fine"
)

func bad(what, why, fix string) finding {
	return finding{Level: levelProblem, What: what, Why: why, Fix: fix}
}

func warning(what, why, fix string) finding {
	return finding{Level: levelWarning, What: what, Why: why, Fix: fix}
}

func fine(what string) finding { return finding{Level: levelFine, What: what} }

// A findings is a report in the making.
type findings struct {
	File string    `json:"file"`
	OK   bool      `json:"ok"` // no problem
	All  []finding `json:"findings"`
}

func (r *findings) add(about string, more ...finding) {
	for _, f := range more {
		f.About = about
		r.All = append(r.All, f)
	}
}

// errFound says that there are problems: they are on stdout.
type errFound struct{ problems int }

func (e errFound) Error() string {
	if e.problems == 1 {
		return "1 problem"
	}
	return fmt.Sprintf("%d problems", e.problems)
}

// load reads the file and opens what it names. What is wrong with the file goes into the report; then the store is nil.
func (r *findings) load() (c *config.Config, all []followed, s *redisstore.Store, err error) {
	if c, err = config.Load(r.File, os.LookupEnv); err == nil {
		if all, err = open(c); err == nil {
			s, err = openStore(c, lookBudget)
		}
	}
	if errs, ok := errors.AsType[config.Errors](err); ok {
		for _, e := range errs {
			r.All = append(r.All, finding{Level: levelProblem, Line: e.Line, Key: e.Key, What: e.Message(), excerpt: e.Error()})
		}
		return nil, nil, nil, nil
	}
	return c, all, s, err
}

// print writes the report and returns errFound if there are problems.
func (r *findings) print(w io.Writer, asJSON bool) error {
	problems, warnings := 0, 0
	for _, f := range r.All {
		switch f.Level {
		case levelProblem:
			problems++
		case levelWarning:
			warnings++
		}
	}
	r.OK = problems == 0
	if asJSON {
		enc := json.NewEncoder(w)
		enc.SetEscapeHTML(false)
		enc.SetIndent("", "  ")
		if r.All == nil {
			r.All = []finding{}
		}
		if err := enc.Encode(r); err != nil {
			return err
		}
	} else {
		r.text(w, problems, warnings)
	}
	if problems > 0 {
		return errFound{problems}
	}
	return nil
}

// text is the report for people:
//
//	shop-db
//	  problem  wal_level is replica; want logical
//	    fix    ALTER SYSTEM SET wal_level = 'logical'; and restart the server
func (r *findings) text(w io.Writer, problems, warnings int) {
	about := "?"
	for _, f := range r.All {
		if f.About != about {
			if about = f.About; about != "" {
				fmt.Fprintln(w, about)
			}
		}
		if about == "" {
			fmt.Fprintln(w, f.excerpt)
			continue
		}
		where := ""
		if f.Line > 0 {
			where = fmt.Sprintf("%s:%d: ", r.File, f.Line)
		}
		fmt.Fprintf(w, "  %-9s%s%s\n", f.Level, where, f.What)
		if f.Why != "" {
			fmt.Fprintf(w, "    why    %s\n", f.Why)
		}
		if f.Fix != "" {
			fmt.Fprintf(w, "    fix    %s\n", f.Fix)
		}
	}
	fmt.Fprintf(w, "%s: %s, %s\n", r.File, count(problems, "problem"), count(warnings, "warning"))
}

func count(n int, what string) string {
	switch n {
	case 0:
		return "no " + what + "s"
	case 1:
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}
