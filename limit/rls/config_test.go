package rls_test

import (
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/freshetdev/freshet/limit/rls"
)

// bare is c without where it was read from.
func bare(c *rls.Config) *rls.Config {
	var b rls.Config
	for _, d := range c.Domains {
		b.Domains = append(b.Domains, rls.Domain{Name: d.Name, SlotBy: d.SlotBy, Descriptors: d.Descriptors})
	}
	return &b
}

func TestParseConfig(t *testing.T) {
	got, err := rls.ParseConfig("limits.yaml", []byte(`
# All there is.
domain: edge
slot_by: tenant
descriptors:
  - key: remote_address
    rate_limit: &default
      name: per-ip
      unit: MINUTE
      unit_multiplier: 5
      requests_per_unit: 1000
      algorithm: gcra
      burst: 50
      on_outage: local
      share: 25
  - key: remote_address
    value: 10.*
    share_threshold: true
    shadow_mode: true
    detailed_metric: true
    value_to_metric: true
    rate_limit: *default
  - key: version
    value: 1.10                # as it is written
    descriptors:
      - key: code
        value: 010
        rate_limit: { unlimited: true, replaces: [{ name: per-ip }] }
      - key: on
        value: "yes"
        rate_limit:
          <<: *default
          requests_per_unit: 60
  - key: month
    value: |-
      two
      lines
    rate_limit: { unit: month, requests_per_unit: 4294967295, algorithm: fixed, time_zone: Europe/Berlin }
---
domain: other
descriptors: ~
---
# Nothing more.
`))
	if err != nil {
		t.Fatal(err)
	}
	perIP := rls.RateLimit{
		Name: "per-ip", Unit: "MINUTE", UnitMultiplier: 5, RequestsPerUnit: 1000, Algorithm: "gcra", Burst: 50, OnOutage: "local", Share: 25,
	}
	other := perIP
	other.RequestsPerUnit = 60
	want := &rls.Config{Domains: []rls.Domain{
		{Name: "edge", SlotBy: "tenant", Descriptors: []rls.Descriptor{
			{Key: "remote_address", RateLimit: &perIP},
			{Key: "remote_address", Value: "10.*", RateLimit: &perIP, ShareThreshold: true, ShadowMode: true, DetailedMetric: true, ValueToMetric: true},
			{Key: "version", Value: "1.10", Descriptors: []rls.Descriptor{
				{Key: "code", Value: "010", RateLimit: &rls.RateLimit{Unlimited: true, Replaces: []string{"per-ip"}}},
				{Key: "on", Value: "yes", RateLimit: &other},
			}},
			{Key: "month", Value: "two\nlines", RateLimit: &rls.RateLimit{Unit: "month", RequestsPerUnit: math.MaxUint32, Algorithm: "fixed", TimeZone: "Europe/Berlin"}},
		}},
		{Name: "other"},
	}}
	if !reflect.DeepEqual(bare(got), want) {
		t.Errorf("got\n%+v, want\n%+v", bare(got), want)
	}
	// The same by hand is as good.
	if err := want.Check(); err != nil {
		t.Error(err)
	}
}

func TestParseConfigMistakes(t *testing.T) {
	f := func(text string, want ...string) {
		t.Helper()
		c, err := rls.ParseConfig("limits.yaml", []byte(strings.ReplaceAll(text, "\t", "  ")))
		if err == nil {
			t.Errorf("%q: no error; want %q", text, want)
			return
		}
		got := strings.Split(err.Error(), "\n")
		ok := len(got) == len(want)
		for i := 0; ok && i < len(got); i++ {
			ok = strings.HasPrefix(got[i], "limits.yaml:"+want[i])
		}
		if !ok {
			t.Errorf("%q: error\n%q, want\n%q", text, got, want)
		}
		if ce := (*rls.ConfigError)(nil); !errors.As(err, &ce) || ce.File != "limits.yaml" || ce.Line < 1 || ce.Column < 1 {
			t.Errorf("%q: error %#v; want a ConfigError with file, line and column", text, ce)
		}
		if c != nil {
			t.Errorf("%q: a Config beside the error %v", text, err)
		}
	}
	rate := func(fields string) string {
		return "domain: d\ndescriptors:\n- key: k\n  rate_limit: { " + fields + " }\n"
	}
	// What is no YAML, or not of the shape.
	f("", "1:1: the file is empty; want a domain and its descriptors")
	f("# nothing", "1:1: the file is empty")
	f("domain: {", `1:9: `)
	f("domain: a\ndomain: b", `2:1: `)
	f("domain: a\n---\n# no\n---\ndomain: b", `4:1: the document before this is empty; want a domain and its descriptors`)
	f("---\n---\ndomain: b", `2:1: the document before this is empty`)
	f("%YAML 1.2\n---\ndomain: b", `1:1: is %; want a mapping`)
	f("- domain", "1:1: is a list; want a mapping")
	f("just text", `1:1: is the text "just text"; want a mapping`)
	f("domain: [d]", "1:9: domain is a list; want a text")
	f("domain: d\ndescriptors: 3", "2:14: descriptors is 3; want a list")
	f("domain: d\ndescriptors:\n- 3", "3:3: descriptors[0] is 3; want a mapping")
	f("domain: d\ndescriptors:\n- key: k\n  rate_limits: {}", "4:3: descriptors[0].rate_limits isn't known here; want descriptors, detailed_metric, key, rate_limit, shadow_mode, share_threshold, value, value_to_metric")
	f(rate("unit: second, requests_per_unit: 1, bursts: 3"), "4:53: descriptors[0].rate_limit.bursts isn't known here; want algorithm, burst, name,")
	f(rate("unit: second, requests_per_unit: -1"), "4:50: descriptors[0].rate_limit.requests_per_unit is -1; want a decimal number, 0 to 4294967295")
	f(rate("unit: second, requests_per_unit: 4294967296"), "4:50: descriptors[0].rate_limit.requests_per_unit is 4294967296; want a decimal number")
	f(rate("unit: second, requests_per_unit: 1.5"), "4:50: descriptors[0].rate_limit.requests_per_unit is 1.5; want a decimal number")
	f(rate("unit: second, requests_per_unit: 010"), "4:50: descriptors[0].rate_limit.requests_per_unit is 010; want a decimal number")
	f(rate("unit: second, requests_per_unit: 0x10"), "4:50: descriptors[0].rate_limit.requests_per_unit is 0x10; want a decimal number")
	f(rate(`unit: second, requests_per_unit: "5"`), `4:50: descriptors[0].rate_limit.requests_per_unit is the text "5"; want a decimal number`)
	f(rate("unit: second, requests_per_unit: 1, unit_multiplier: 0"), "4:70: descriptors[0].rate_limit.unit_multiplier is 0; want a decimal number, 1 to 4294967295")
	f(rate("unit: second, requests_per_unit: 1, burst: 0"), "4:60: descriptors[0].rate_limit.burst is 0; want a decimal number, 1 to")
	f(rate("unit: second"), "4:15: descriptors[0].rate_limit has no requests_per_unit; want a number, 0 to refuse everything")
	f(rate("unlimited: yes"), "4:28: descriptors[0].rate_limit.unlimited is the text \"yes\"; want true or false", "4:15: descriptors[0].rate_limit has no requests_per_unit")
	f("domain: *nobody", "1:9: domain is the alias *nobody; no anchor before it has that name")
	f("domain: !!binary aGk=", "1:9: domain has the tag !!binary; want none")
	f("domain: d\ndescriptors: &a\n- key: k\n  descriptors: *a", "3:3: descriptors[0]"+strings.Repeat(".descriptors[0]", 32)+" stands 33 levels deep; want at most 32")

	if _, err := rls.ParseConfig("bomb.yaml", []byte("domain: d\ndescriptors: &a\n- descriptors: *a\n- descriptors: *a")); err == nil ||
		strings.Count(err.Error(), "\n") != 99 || !strings.Contains(err.Error(), "levels deep") {
		t.Errorf("an alias in itself, twice: error %.200v; want the first 100", err)
	}
	// 8 levels of 8 descriptors, each level once: 16 million in all.
	text := "{key: k, rate_limit: {unit: day, requests_per_unit: 1}}"
	for i := range 8 {
		text = fmt.Sprintf("{key: k, descriptors: [&%c %s%s]}", 'a'+i, text, strings.Repeat(fmt.Sprintf(", *%c", 'a'+i), 7))
	}
	if _, err := rls.ParseConfig("bomb.yaml", []byte("domain: d\ndescriptors: ["+text+"]")); err == nil || !strings.Contains(err.Error(), "is too much: the file has more than 262144 values") {
		t.Errorf("aliases of aliases: error %.200v; want too much", err)
	}

	// What is of the shape, and wrong. All of it is said.
	f("domain: ''", "1:9: domain is empty; want the name that Envoy sends")
	f("descriptors: []", "1:1: domain is empty")
	f("domain: a\n---\ndomain: b\n---\ndomain: a", `5:9: domain "a" is there already, at limits.yaml:1; want each domain once`)
	f("domain: d\ndescriptors:\n- value: v", "3:3: descriptors[0].key is empty; want the key of an entry")
	f("domain: d\ndescriptors:\n- key: k\n  value: v\n- key: k\n- key: k\n  value: v\n- key: k\n  value: v*\n- key: k\n  value: v*",
		`6:3: descriptors[2] has the key "k" and the value "v", as one before it; want each once`,
		`10:3: descriptors[4] has the key "k" and the value "v*", as one before it`)
	f("domain: d\ndescriptors:\n- key: k\n  shadow_mode: true\n  share_threshold: true\n  value: v",
		`5:20: descriptors[0].share_threshold is true with the value "v"; want a value that ends with *`,
		"4:16: descriptors[0].shadow_mode is true without a rate_limit")
	f(rate("unit: secnd, requests_per_unit: 1, algorithm: leaky, on_outage: panic, share: 5"),
		`4:63: descriptors[0].rate_limit.algorithm is "leaky"; want gcra, strict or fixed`,
		`4:81: descriptors[0].rate_limit.on_outage is "panic"; want error, allow, deny or local`,
		`4:95: descriptors[0].rate_limit.share is given; only on_outage local has it`,
		`4:23: descriptors[0].rate_limit.unit is "secnd"; want second, minute, hour, day, week, month or year`)
	f(rate("requests_per_unit: 1"), `4:15: descriptors[0].rate_limit.unit is ""; want second`)
	f(rate("unit: second, unlimited: true"), "4:42: descriptors[0].rate_limit.unlimited is true, and there are numbers; want either")
	f(rate("unit: second, requests_per_unit: 9, algorithm: strict, burst: 3"), "4:79: descriptors[0].rate_limit.burst is given; strict has none")
	f(rate("unit: day, requests_per_unit: 9, time_zone: UTC"), "4:61: descriptors[0].rate_limit.time_zone is given; only the algorithm fixed has it")
	f(rate("unit: day, requests_per_unit: 9, algorithm: fixed, time_zone: Middle/Earth"), `4:79: descriptors[0].rate_limit.time_zone is "Middle/Earth", which isn't known here`)
	f(rate("unit: day, requests_per_unit: 9, algorithm: fixed, unit_multiplier: 2, time_zone: UTC"), "4:99: descriptors[0].rate_limit.time_zone is given with a unit_multiplier of 2")
	f(rate("unit: year, requests_per_unit: 9, unit_multiplier: 2"), "4:15: descriptors[0].rate_limit can't be: its period is 2 times a year; want at most 1")
	f(rate("unit: second, requests_per_unit: 1000001, algorithm: gcra"), `4:15: descriptors[0].rate_limit can't be: limit: policy "d.k": the Limit is 1000001 per 1s`)
	f(rate("unit: second, requests_per_unit: 1, name: a, replaces: [{name: a}, {name: b}, {}]"),
		`4:80: descriptors[0].rate_limit.replaces[0].name is "a", the limit's own name; want that of another`,
		`4:91: descriptors[0].rate_limit.replaces[1].name is "b"; no rate_limit of the domain "d" has that name`,
		`4:95: descriptors[0].rate_limit.replaces[2].name is empty; want the name of a rate_limit`)
}

func TestConfigMistakesByHand(t *testing.T) {
	c := &rls.Config{Domains: []rls.Domain{{Name: "d", Descriptors: []rls.Descriptor{{Key: "k", RateLimit: &rls.RateLimit{Unit: "age"}}}}}}
	want := `rls: domain "d": descriptors[0].rate_limit.unit is "age"; want second, minute, hour, day, week, month or year`
	if err := c.Check(); err == nil || err.Error() != want {
		t.Errorf("error %v; want %s", err, want)
	}
	if err := (*rls.Config)(nil).Check(); err == nil {
		t.Error("no error for a nil Config")
	}
}

func TestReadConfig(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string) string {
		t.Helper()
		file := filepath.Join(dir, name)
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return file
	}
	if _, err := rls.ReadConfig(dir); err == nil || !strings.Contains(err.Error(), "has no file *.yaml or *.yml") {
		t.Errorf("empty folder: error %v", err)
	}
	if _, err := rls.ReadConfig(filepath.Join(dir, "none.yaml")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("no file: error %v", err)
	}
	b := write("b.yml", "domain: b")
	write("a.yaml", "domain: a")
	write(".hidden.yaml", "domain: a")
	write("notes.txt", "no: yaml: at all")
	if err := os.Symlink(b, filepath.Join(dir, "c.yaml")); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(filepath.Join(dir, "more.yaml"), 0o700); err != nil {
		t.Fatal(err)
	}
	_, err := rls.ReadConfig(dir)
	if want := filepath.Join(dir, "c.yaml") + `:1:9: domain "b" is there already, at ` + b + ":1; want each domain once"; err == nil || err.Error() != want {
		t.Errorf("error %v; want %s", err, want)
	}
	if err := os.Remove(filepath.Join(dir, "c.yaml")); err != nil {
		t.Fatal(err)
	}
	c, err := rls.ReadConfig(dir)
	if err != nil || len(c.Domains) != 2 || c.Domains[0].Name != "a" || c.Domains[1].Name != "b" {
		t.Errorf("got %+v, %v; want the domains a and b", c, err)
	}
	// Mistakes of several files are told together.
	write("a.yaml", "domain: [a]")
	write("b.yml", "domain: [b]")
	if _, err = rls.ReadConfig(dir); err == nil || strings.Count(err.Error(), "is a list; want a text") != 2 {
		t.Errorf("error %v; want those of both files", err)
	}
}

// FuzzParseConfig: no text makes it panic or hang, every mistake has its place, and what is accepted checks again.
func FuzzParseConfig(f *testing.F) {
	f.Add([]byte("domain: d\nslot_by: t\ndescriptors:\n- key: k\n  value: v*\n  shadow_mode: true\n  rate_limit: &a {unit: hour, requests_per_unit: 5, name: n}\n  descriptors:\n  - key: q\n    rate_limit: *a\n---\ndomain: e"))
	f.Add([]byte("domain: d\ndescriptors:\n- key: k\n  rate_limit: {<<: {unit: day}, requests_per_unit: 1, algorithm: fixed, time_zone: UTC, replaces: [{name: a}]}"))
	f.Add([]byte("a: &a [*a]\ndescriptors: &b\n- descriptors: *b"))
	f.Add([]byte("descriptors: &b\n- descriptors: *b\n- descriptors: *b"))
	f.Add([]byte("? {a: b}\n: !!str 3\n--- >-\n x\n"))
	f.Add([]byte("domain: \"\\u00e9\"\ndescriptors: [{key: 1.10, rate_limit: {unit: second, requests_per_unit: 0b1}}]"))
	f.Fuzz(func(t *testing.T, text []byte) {
		c, err := rls.ParseConfig("f.yaml", text)
		if err == nil {
			if err := c.Check(); err != nil {
				t.Errorf("accepted, then %v", err)
			}
			if err := bare(c).Check(); err != nil {
				t.Errorf("accepted, then without its source %v", err)
			}
			return
		}
		errs := []error{err}
		if joined, ok := err.(interface{ Unwrap() []error }); ok {
			errs = joined.Unwrap()
		}
		for _, err := range errs {
			if joined, ok := err.(interface{ Unwrap() []error }); ok {
				err = joined.Unwrap()[0]
			}
			if ce := (*rls.ConfigError)(nil); !errors.As(err, &ce) || ce.Line < 1 || ce.Column < 0 {
				t.Errorf("error %#v; want a ConfigError with its place", err)
			}
		}
	})
}
