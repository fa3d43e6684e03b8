package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"slices"
	"strings"
	"time"

	"github.com/freshetdev/freshet/bench/adapters"
)

// A report is everything that one scenario measured, with what is needed to judge it.
type report struct {
	Scenario string   `json:"scenario"`
	Rounds   int      `json:"rounds"`
	Command  string   `json:"command"`
	Date     string   `json:"date"`
	Commit   string   `json:"commit"`
	Machine  string   `json:"machine"`
	Versions []string `json:"versions"`
	Results  []Result `json:"results"`
}

func newReport(s scenario, rounds int, o options, redisVersion string) *report {
	return &report{
		Scenario: s.name,
		Rounds:   rounds,
		Command:  command(s, rounds, o),
		Date:     time.Now().UTC().Format("2006-01-02 15:04 UTC"),
		Commit:   commit(),
		Machine:  machine(),
		Versions: versions(s, redisVersion),
	}
}

func machine() string {
	model := "unknown CPU"
	if b, err := os.ReadFile("/proc/cpuinfo"); err == nil {
		for line := range strings.Lines(string(b)) {
			if name, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(name) == "model name" {
				model = strings.TrimSpace(value)
				break
			}
		}
	}
	kernel := ""
	if b, err := os.ReadFile("/proc/sys/kernel/osrelease"); err == nil {
		kernel = ", Linux " + strings.TrimSpace(string(b))
	}
	return fmt.Sprintf("%s, %d cores, GOMAXPROCS %d%s", model, runtime.NumCPU(), runtime.GOMAXPROCS(0), kernel)
}

func versions(s scenario, redisVersion string) []string {
	v := []string{runtime.Version(), "Redis " + redisVersion}
	compared := map[string]bool{}
	for _, a := range s.all() {
		compared[a.Module] = true
	}
	if info, ok := debug.ReadBuildInfo(); ok {
		for _, d := range info.Deps {
			if compared[d.Path] {
				v = append(v, d.Path+" "+d.Version)
			}
		}
	}
	return v
}

func commit() string {
	b, err := exec.Command("git", "describe", "--always", "--dirty").Output()
	if err != nil {
		return "unknown"
	}
	return strings.TrimSpace(string(b))
}

// A table has a line per cache and a column per fact.
type table struct {
	caption string
	columns []column
}

// A column is the median over the rounds of one metric in one variant. With against, it
// is the median of the ratios to that cache within a round.
type column struct {
	head    string
	variant string
	metric  string
	format  string
	against string
}

func (r *report) markdown(s scenario) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s\n\n", s.note)
	for _, t := range s.tables {
		if t.caption != "" {
			fmt.Fprintf(&b, "%s:\n\n", t.caption)
		}
		b.WriteString("| |")
		for _, c := range t.columns {
			fmt.Fprintf(&b, " %s |", c.head)
		}
		b.WriteString("\n|---|" + strings.Repeat("---:|", len(t.columns)) + "\n")
		for _, a := range s.all() {
			b.WriteString(r.line(a, t))
		}
		b.WriteString("\n")
	}
	for _, failed := range r.failed() {
		fmt.Fprintf(&b, "- failed: %s\n", failed)
	}
	fmt.Fprintf(&b, "%s · commit %s · `%s`, %d round(s)\n", r.Date, r.Commit, r.Command, r.Rounds)
	return b.String()
}

// line is empty for a cache that no column has.
func (r *report) line(a adapters.Adapter, t table) string {
	var b strings.Builder
	name := a.Name
	switch a.Kind {
	case adapters.Yardstick:
		name = "*" + name + "*"
	case adapters.Ours:
		name = "**" + name + "**"
	}
	fmt.Fprintf(&b, "| %s |", name)
	any := false
	for _, c := range t.columns {
		v := r.value(a.Name, c)
		if math.IsNaN(v) {
			b.WriteString(" - |")
			continue
		}
		any = true
		fmt.Fprintf(&b, " "+c.format+" |", v)
	}
	if !any {
		return ""
	}
	return b.String() + "\n"
}

func (r *report) value(cache string, c column) float64 {
	if c.against == "" {
		return median(r.metric(cache, c.variant, c.metric))
	}
	var ratios []float64
	for round := 1; round <= r.Rounds; round++ {
		mine, theirs := r.at(cache, c.variant, c.metric, round), r.at(c.against, c.variant, c.metric, round)
		if ratio := mine / theirs; !math.IsNaN(ratio) && !math.IsInf(ratio, 0) {
			ratios = append(ratios, ratio)
		}
	}
	return median(ratios)
}

func (r *report) metric(cache, variant, metric string) (values []float64) {
	for round := 1; round <= r.Rounds; round++ {
		if v := r.at(cache, variant, metric, round); !math.IsNaN(v) {
			values = append(values, v)
		}
	}
	return values
}

func (r *report) at(cache, variant, metric string, round int) float64 {
	for _, res := range r.Results {
		if res.Cache == cache && res.Variant == variant && res.Round == round {
			if v, ok := res.Metrics[metric]; ok {
				return v
			}
		}
	}
	return math.NaN()
}

func (r *report) failed() (lines []string) {
	for _, res := range r.Results {
		if res.Error != "" {
			first, _, _ := strings.Cut(res.Error, "\n")
			lines = append(lines, fmt.Sprintf("%s, %s, round %d: %s", res.Cache, res.Variant, res.Round, first))
		}
	}
	return lines
}

// render writes what results/ holds between the markers of README.md.
func render(dir string) error {
	path := filepath.Join(dir, "README.md")
	b, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	text := string(b)
	reports := map[string]*report{}
	var compared []string
	for _, s := range scenarios() {
		b, err := os.ReadFile(filepath.Join(dir, "results", s.name+".json"))
		if errors.Is(err, os.ErrNotExist) {
			continue
		} else if err != nil {
			return err
		}
		r := new(report)
		if err := json.Unmarshal(b, r); err != nil {
			return fmt.Errorf("results of %s: %w", s.name, err)
		}
		reports[s.name] = r
		if text, err = between(text, s.name, r.markdown(s)); err != nil {
			return err
		}
		for _, v := range r.Versions {
			if !slices.Contains(compared, v) {
				compared = append(compared, v)
			}
		}
		about := fmt.Sprintf("%s. %s.\n", r.Machine, strings.Join(compared, " · "))
		if text, err = between(text, "machine", about); err != nil {
			return err
		}
	}
	if text, err = between(text, "targets", targetTable(reports)); err != nil {
		return err
	}
	return os.WriteFile(path, []byte(text), 0o644)
}

// between replaces what stands between the markers of name.
func between(text, name, with string) (string, error) {
	begin, end := "<!-- begin "+name+" -->", "<!-- end "+name+" -->"
	before, rest, ok := strings.Cut(text, begin)
	_, after, ok2 := strings.Cut(rest, end)
	if !ok || !ok2 {
		return "", fmt.Errorf("README.md has no %s … %s", begin, end)
	}
	return before + begin + "\n" + strings.TrimRight(with, "\n") + "\n" + end + after, nil
}

// command measures the same again, wherever the results go.
func command(s scenario, rounds int, o options) string {
	c := fmt.Sprintf("go run . -scenario %s -rounds %d", s.name, rounds)
	if o.quick {
		c += " -quick"
	}
	if len(o.caches) > 0 {
		c += fmt.Sprintf(" -caches %q", strings.Join(o.caches, ","))
	}
	return c
}
