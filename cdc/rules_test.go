package cdc_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"

	"github.com/freshetdev/freshet/cdc"
	"github.com/freshetdev/freshet/cdc/cdctest"
)

var null = cdc.Value{State: cdc.Null}

func products(columns ...string) *cdc.Table {
	t := &cdc.Table{Schema: "public", Name: "products"}
	for _, c := range columns {
		t.Columns = append(t.Columns, cdc.Column{Name: c})
	}
	return t
}

// names are drops as the oracle writes them.
func names(d cdc.Drops) (all []string) {
	for _, t := range d.Tags {
		all = append(all, "tag "+t)
	}
	for _, k := range d.Keys {
		all = append(all, "key "+k)
	}
	for _, p := range d.Patterns {
		all = append(all, "pattern "+p)
	}
	for _, m := range d.Publish {
		all = append(all, "publish "+m.Channel+" "+m.Payload)
	}
	slices.Sort(all)
	return all
}

func mustRules(t testing.TB, rules ...cdc.Rule) *cdc.Rules {
	t.Helper()
	r, err := cdc.NewRules(rules)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func TestDrops(t *testing.T) {
	table := products("id", "category_id", "name")
	row := func(id, category, name string) []cdc.Value {
		return []cdc.Value{cdc.Text(id), cdc.Text(category), cdc.Text(name)}
	}
	insert := &cdc.Change{Op: cdc.OpInsert, Table: table, New: row("7", "1", "a b:c")}
	update := &cdc.Change{Op: cdc.OpUpdate, Table: table, Old: row("7", "1", "x"), New: row("7", "2", "x")}
	rename := &cdc.Change{Op: cdc.OpUpdate, Table: table, Old: row("7", "1", "x"), New: row("7", "1", "y")}
	keyOnly := &cdc.Change{Op: cdc.OpUpdate, Table: table, Old: []cdc.Value{cdc.Text("7"), {}, {}}, New: row("7", "2", "x")}
	toast := &cdc.Change{Op: cdc.OpUpdate, Table: table, Old: []cdc.Value{cdc.Text("7"), {}, {}}, New: []cdc.Value{cdc.Text("7"), cdc.Text("2"), {State: cdc.Unchanged}}}
	noCategory := &cdc.Change{Op: cdc.OpInsert, Table: table, New: []cdc.Value{cdc.Text("7"), null, cdc.Text("x")}}
	del := &cdc.Change{Op: cdc.OpDelete, Table: table, Old: row("7", "1", "x")}
	truncate := &cdc.Change{Op: cdc.OpTruncate, Table: table}
	schema := &cdc.Change{Op: cdc.OpSchema, Table: table}

	f := func(r cdc.Rule, c *cdc.Change, want ...string) {
		t.Helper()
		if r.Table == "" {
			r.Table = "public.products"
		}
		d, _ := mustRules(t, r).Drops(c)
		if got := names(d); !slices.Equal(got, want) {
			t.Errorf("%+v of %s %s: got %q; want %q", r, c.Op, cdctest.RowText(c.New), got, want)
		}
	}
	tags := func(ts ...string) cdc.Rule { return cdc.Rule{Tags: ts} }
	f(tags("product:{id}"), insert, "tag product:7")
	f(tags("product:{id}"), update, "tag product:7")
	f(tags("product:{id}"), truncate, "tag product!")
	f(tags("product:{id}"), schema, "tag product!")
	f(tags("category:{category_id}"), update, "tag category:1", "tag category:2")
	f(tags("category:{old.category_id}"), update, "tag category:1")
	f(tags("category:{old.category_id}"), insert)
	f(tags("category:{old.category_id}"), del, "tag category:1")
	f(tags("category:{new.category_id}"), del)
	f(tags("move:{old.category_id}:{new.category_id}:{id}"), update, "tag move:1:2:7")
	f(tags("category:{category_id}"), noCategory, "tag category!")
	f(tags("category:{category_id?}"), noCategory)
	f(cdc.Rule{Tags: []string{"list"}, Publish: []cdc.Publish{{Channel: "c{category_id}", Payload: "{category_id?}"}}}, noCategory, "publish c* *", "tag list")
	f(cdc.Rule{Tags: []string{"list"}, Publish: []cdc.Publish{{Channel: "c", Payload: "{category_id?}"}}}, noCategory, "tag list")
	f(tags("category:{category_id}"), keyOnly, "tag category!", "tag category:2")
	f(tags("category:{new.category_id}"), keyOnly, "tag category:2")
	f(tags("gone:{color}"), insert, "tag gone!")
	f(tags("named:{name}"), insert, "tag named:a%20b%3Ac") // as freshet.Tag("named", "a b:c")
	f(tags("named:{name}"), toast, "tag named!")
	f(tags("{schema}.{table}:{id}"), insert, "tag public.products:7")
	f(tags("products", "products!"), truncate, "tag products", "tag products!")
	f(tags("long:{name}"), &cdc.Change{Op: cdc.OpInsert, Table: table, New: row("1", "1", strings.Repeat("x", 600))}, "tag long!")
	f(cdc.Rule{Table: "products", Tags: []string{"p:{id}"}}, insert, "tag p:7")
	f(cdc.Rule{Table: "p*.prod*s", Tags: []string{"p:{id}"}}, insert, "tag p:7")
	f(cdc.Rule{Table: "public.product", Tags: []string{"p:{id}"}}, insert)
	f(cdc.Rule{Ops: []string{"insert", "delete"}, Tags: []string{"products"}}, update)
	f(cdc.Rule{Ops: []string{"insert", "delete"}, Tags: []string{"products"}}, truncate, "tag products")
	when := cdc.Rule{WhenChanged: []string{"category_id"}, Tags: []string{"category:{category_id}"}}
	f(when, update, "tag category:1", "tag category:2")
	f(when, rename)
	f(when, insert, "tag category:1")
	f(when, keyOnly, "tag category!", "tag category:2") // it can't be told
	f(cdc.Rule{WhenChanged: []string{"name"}, Tags: []string{"p:{id}"}}, toast)
	f(cdc.Rule{WhenChanged: []string{"color"}, Tags: []string{"p:{id}"}}, rename, "tag p:7")
	f(cdc.Rule{Keys: []string{"product:{id}:page", "{{p:{id}}}"}}, insert, "key product:7:page", "key {p:7}")
	f(cdc.Rule{Keys: []string{"named:{name}"}}, insert, "key named:a b:c", "key named:a%20b%3Ac", "key named:a%20b:c")
	f(cdc.Rule{Keys: []string{"product:{id}:page", "a*b:{id}"}}, truncate, `pattern a\*b:*`, "pattern product:*:page")
	f(cdc.Rule{Keys: []string{"product:{id}"}, NoSweep: true}, truncate)
	f(cdc.Rule{Publish: []cdc.Publish{{Channel: "p", Payload: "{id} {name}"}}}, insert, "publish p 7 a b:c")
	f(cdc.Rule{Publish: []cdc.Publish{{Channel: "p:{id}", Payload: "{table}"}}}, truncate, "publish p:* products")
}

func TestBadRules(t *testing.T) {
	f := func(r cdc.Rule, want string) {
		t.Helper()
		if _, err := cdc.NewRules([]cdc.Rule{r}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%+v: error %v; want %q in it", r, err, want)
		}
	}
	tag := func(s string) cdc.Rule { return cdc.Rule{Table: "t", Tags: []string{s}} }
	f(cdc.Rule{Tags: []string{"x"}}, "table is empty")
	f(cdc.Rule{Table: "a.", Tags: []string{"x"}}, `table is "a."; want schema.table`)
	f(cdc.Rule{Table: "t"}, "no tags, keys or publish")
	f(cdc.Rule{Table: "t", Ops: []string{"upsert"}, Tags: []string{"x"}}, `ops has "upsert"; want insert, update or delete`)
	f(cdc.Rule{Table: "t", Ops: []string{"truncate"}, Tags: []string{"x"}}, `ops has "truncate"`)
	f(cdc.Rule{Table: "t", Ops: []string{"insert"}, WhenChanged: []string{"x"}, Tags: []string{"x"}}, "when_changed is about updates")
	f(cdc.Rule{Table: "t", Bulk: -1, Tags: []string{"x"}}, "bulk is -1")
	f(tag(""), "template is empty")
	f(tag("a:{"), "is not closed")
	f(tag("a:{id"), "is not closed")
	f(tag("a:{i{d}"), "is not closed")
	f(tag("a:}"), "closes nothing")
	f(tag("a:{}"), "names no column")
	f(tag("a:{old.}"), "names no column")
	f(tag("a:{ id}"), "names no column")
	f(tag("a:{?}"), "names no column")
	f(tag("{id}"), "comes before the first colon")
	f(tag("user{id}:x"), "comes before the first colon")
	f(tag("user x:{id}"), "want no blanks")
	f(tag("user:{{x"), "braces in a tag")
	f(cdc.Rule{Table: "t", Keys: []string{"{id}"}}, "want text before it")
	f(cdc.Rule{Table: "*", Keys: []string{"{table}:{id}"}}, "begins with the name of any table")
	f(cdc.Rule{Table: "t", Keys: []string{"{schema}:{id}"}}, "begins with the name of any schema")
	f(cdc.Rule{Table: "t", Publish: []cdc.Publish{{Payload: "x"}}}, "publish: channel: the template is empty")
	if _, err := cdc.NewRules(nil); err == nil {
		t.Error("no rules: no error")
	}
	// All mistakes at once, each with its rule.
	_, err := cdc.NewRules([]cdc.Rule{tag("ok:{id}"), tag("{id}"), tag("x:{")})
	if err == nil || !strings.Contains(err.Error(), "rule 2 ") || !strings.Contains(err.Error(), "rule 3 ") {
		t.Errorf("error %v; want it to name rules 2 and 3", err)
	}
}

func TestCheck(t *testing.T) {
	table := &cdc.Table{
		Schema: "public", Name: "orders", Identify: "ALTER TABLE public.orders REPLICA IDENTITY FULL",
		Columns: []cdc.Column{{Name: "id"}, {Name: "user_id", NoOld: true}, {Name: "shop", Nullable: true}, {Name: "text", NoOld: true, Omitted: true}},
	}
	f := func(r cdc.Rule, want ...string) {
		t.Helper()
		if r.Table == "" {
			r.Table = "orders"
		}
		got := mustRules(t, r).Check([]*cdc.Table{table})
		ok := len(got) == len(want)
		for i := 0; ok && i < len(got); i++ {
			ok = strings.Contains(got[i].String(), want[i])
		}
		if !ok {
			t.Errorf("%+v: got %q; want %q", r, got, want)
		}
	}
	f(cdc.Rule{Tags: []string{"order:{id}"}})
	f(cdc.Rule{Tags: []string{"orders:{user_id}"}}, "rule 1, public.orders.user_id: updates and deletes don't carry its old value, which \"orders:{user_id}\" needs; ALTER TABLE public.orders REPLICA IDENTITY FULL")
	f(cdc.Rule{Ops: []string{"insert"}, Tags: []string{"orders:{user_id}"}})
	f(cdc.Rule{Tags: []string{"orders:{new.user_id}"}})
	f(cdc.Rule{Tags: []string{"orders:{shop}"}}, "may be null")
	f(cdc.Rule{Tags: []string{"orders:{shop?}"}})
	f(cdc.Rule{Tags: []string{"orders:{color}"}}, "no such column")
	f(cdc.Rule{Tags: []string{"orders:{new.text}"}}, "updates may leave it out")
	f(cdc.Rule{WhenChanged: []string{"user_id", "color"}, Tags: []string{"order:{id}"}}, "every update counts as a change of it", "which when_changed names")
	f(cdc.Rule{Table: "nothing", Tags: []string{"x"}}, "no table has this name")
}

// One transaction of very many rows drops the table's tag, and the next one names again.
func TestBulk(t *testing.T) {
	synctest.Test(t, testBulk)
}

func testBulk(t *testing.T) {
	d := cdctest.NewDatabase(items)
	got := make(map[string]int)
	rig := newRig(t, d, cdc.Rule{Table: "items", Bulk: 10, Tags: []string{"item:{id}", "items"}, Publish: []cdc.Publish{{Channel: "c", Payload: "{id}"}}})
	rig.pump(cdc.Options{Hooks: cdc.Hooks{Coarse: func(c cdc.Coarse) { got[string(c.Why)+" "+strings.Join(c.Names, " ")]++ }}})
	var many []cdc.Change
	for i := range 100 {
		many = append(many, put(nil, i%50, "x"))
	}
	rig.settle()
	clear(got)
	start := rig.tags()
	d.Commit(many...)
	time.Sleep(time.Second)
	d.Commit(put(nil, 7, "y"))
	rig.settle()
	tags := rig.tags()
	if tags["item!"]-start["item!"] != 1 || tags["items"]-start["items"] != 2 || tags["item:7"] != 2 || tags["item:30"] != 0 {
		t.Errorf("tags %v; want item! once, items twice, item:7 twice, item:30 not", tags)
	}
	if got["bulk item! c"] != 1 {
		t.Errorf("told %v; want bulk once for both", got)
	}
	rig.stop()
}

// Random tables, rules and changes give what the oracle says.
func TestRulesAgainstOracle(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		columns := rapid.SliceOfNDistinct(rapid.SampledFrom([]string{"id", "a", "b", "user_id", "Größe", "x.y", "old.z"}), 1, 5, rapid.ID[string]).Draw(t, "columns")
		table := &cdc.Table{
			Schema: rapid.SampledFrom([]string{"public", "shop", "a b"}).Draw(t, "schema"),
			Name:   rapid.SampledFrom([]string{"users", "orders", "user_orders"}).Draw(t, "table"),
		}
		for _, c := range columns {
			table.Columns = append(table.Columns, cdc.Column{Name: c})
		}
		col := rapid.Custom(func(t *rapid.T) string {
			return "{" + rapid.SampledFrom([]string{"", "", "old.", "new."}).Draw(t, "side") +
				rapid.SampledFrom(append(columns, "missing")).Draw(t, "column") + rapid.SampledFrom([]string{"", "?"}).Draw(t, "optional") + "}"
		})
		template := func(first []string, more int) *rapid.Generator[string] {
			return rapid.Custom(func(t *rapid.T) string {
				s := rapid.SampledFrom(first).Draw(t, "first")
				for range rapid.IntRange(0, more).Draw(t, "pieces") {
					s += rapid.OneOf(col, rapid.SampledFrom([]string{"x", ":", "*", "-", "{table}", "{schema}"})).Draw(t, "piece")
				}
				return s
			})
		}
		tag := template([]string{"user:", "{table}:", "list", "x!:"}, 4)
		tag = tag.Filter(func(s string) bool {
			first, _, _ := strings.Cut(s, ":")
			return !strings.Contains(strings.NewReplacer("{table}", "", "{schema}", "").Replace(first), "{")
		})
		key := template([]string{"user:", "k[", "{table}:"}, 4)
		text := template([]string{"c", "c:{table}"}, 3)
		rules := rapid.SliceOfN(rapid.Custom(func(t *rapid.T) cdc.Rule {
			r := cdc.Rule{
				Table:       rapid.SampledFrom([]string{"users", "public.users", "shop.u*", "shop.o*", "user*", "p*c.us*s", "s*p.o*s"}).Draw(t, "pattern"),
				Ops:         rapid.SliceOfNDistinct(rapid.SampledFrom([]string{"insert", "update", "delete"}), 0, 3, rapid.ID[string]).Draw(t, "ops"),
				WhenChanged: rapid.SliceOfN(rapid.SampledFrom(append(columns, "missing")), 0, 2).Draw(t, "when"),
				Tags:        rapid.SliceOfN(tag, 1, 3).Draw(t, "tags"),
				Keys:        rapid.SliceOfN(key, 0, 2).Draw(t, "keys"),
			}
			if len(r.Ops) > 0 && !slices.Contains(r.Ops, "update") {
				r.WhenChanged = nil
			}
			if strings.HasPrefix(r.Table, "*") {
				r.Keys = nil
			}
			for range rapid.IntRange(0, 2).Draw(t, "publish") {
				r.Publish = append(r.Publish, cdc.Publish{Channel: text.Draw(t, "channel"), Payload: text.Draw(t, "payload")})
			}
			return r
		}), 1, 4).Draw(t, "rules")
		value := func(states ...cdc.State) *rapid.Generator[cdc.Value] {
			return rapid.Custom(func(t *rapid.T) cdc.Value {
				v := cdc.Value{State: rapid.SampledFrom(states).Draw(t, "state")}
				if v.State == cdc.Known {
					v.Text = []byte(rapid.SampledFrom([]string{"1", "2", "", "a b", "x:y", "100%", "{z}", "ü"}).Draw(t, "text"))
				}
				return v
			})
		}
		n := len(columns)
		k := cdc.Known
		old := rapid.SliceOfN(value(k, k, k, cdc.Null, cdc.Unknown), n, n).Draw(t, "old")
		is := rapid.SliceOfN(value(k, k, k, cdc.Null, cdc.Unchanged), n, n).Draw(t, "new")
		c := &cdc.Change{Op: rapid.SampledFrom([]cdc.Op{cdc.OpInsert, cdc.OpUpdate, cdc.OpDelete, cdc.OpTruncate}).Draw(t, "op"), Table: table}
		switch c.Op {
		case cdc.OpInsert:
			c.New = is
		case cdc.OpUpdate:
			c.Old, c.New = old, is
		case cdc.OpDelete:
			c.Old = old
		}
		compiled, err := cdc.NewRules(rules)
		if err != nil {
			t.Fatalf("rules %+v: %v", rules, err)
		}
		d, _ := compiled.Drops(c)
		if got, want := names(d), cdctest.Expect(rules, c); !slices.Equal(got, want) {
			t.Fatalf("%s of %s\n old %s\n new %s\n got  %q\n want %q", c.Op, table, cdctest.RowText(c.Old), cdctest.RowText(c.New), got, want)
		}
	})
}

func TestParseMessage(t *testing.T) {
	d, err := cdc.ParseMessage([]byte(`{"tags":["users:7","user!"],"keys":["user:7:profile"],"publish":[{"channel":"c","payload":""}]}`))
	if got, want := names(d), []string{"key user:7:profile", "publish c ", "tag user!", "tag users:7"}; err != nil || !slices.Equal(got, want) {
		t.Errorf("got %q, %v; want %q", got, err, want)
	}
	for _, bad := range []string{``, `users:7`, `{"tag":["x"]}`, `{"tags":["a b"]}`, `{"tags":[""]}`, `{"keys":[""]}`, `{"publish":[{"payload":"x"}]}`, `{} {}`, `{"tags":7}`} {
		if _, err := cdc.ParseMessage([]byte(bad)); err == nil {
			t.Errorf("message %q: no error", bad)
		}
	}
}

// Any template is refused, or gives names for every operation, and a coarse one that covers them.
func FuzzTemplate(f *testing.F) {
	for _, s := range []string{"user:{id}", "{table}:{old.id?}", "{{x}}:{new.a}", "a}", "{", "x:{id", "list", "a:{schema}{id}"} {
		f.Add(s, "7", "a b")
	}
	table := products("id", "a")
	f.Fuzz(func(t *testing.T, text, v, w string) {
		for _, r := range []cdc.Rule{
			{Table: "products", Tags: []string{text}},
			{Table: "products", Keys: []string{text}},
			{Table: "products", Publish: []cdc.Publish{{Channel: "c", Payload: text}}},
		} {
			rules, err := cdc.NewRules([]cdc.Rule{r})
			if err != nil {
				continue
			}
			row, other := []cdc.Value{cdc.Text(v), cdc.Text(w)}, []cdc.Value{cdc.Text(w), null}
			for _, c := range []*cdc.Change{
				{Op: cdc.OpInsert, Table: table, New: row},
				{Op: cdc.OpUpdate, Table: table, Old: other, New: row},
				{Op: cdc.OpDelete, Table: table, Old: row},
				{Op: cdc.OpTruncate, Table: table},
			} {
				d, _ := rules.Drops(c)
				for _, tag := range d.Tags {
					if tag == "" || len(tag) > 512 || strings.ContainsFunc(tag, func(r rune) bool { return r <= ' ' || r == 0x7f }) {
						t.Errorf("%q gives the tag %q", text, tag)
					}
				}
				if c.Op == cdc.OpTruncate && d.Len() == 0 {
					t.Errorf("%q gives nothing for truncate", text)
				}
			}
		}
	})
}

func FuzzMessage(f *testing.F) {
	f.Add([]byte(`{"tags":["users:7"],"keys":["k"],"publish":[{"channel":"c","payload":"p"}]}`))
	f.Fuzz(func(t *testing.T, text []byte) {
		d, err := cdc.ParseMessage(text)
		if err == nil && slices.Contains(d.Tags, "") {
			t.Errorf("message %q has an empty tag", text)
		}
	})
}

func BenchmarkRules(b *testing.B) {
	table := products("id", "category_id", "name", "price")
	rules := mustRules(b,
		cdc.Rule{Table: "public.products", Tags: []string{"product:{id}"}},
		cdc.Rule{Table: "public.products", WhenChanged: []string{"category_id"}, Tags: []string{"category:{category_id}"}},
	)
	var changes []*cdc.Change
	for i := range 1000 {
		row := []cdc.Value{cdc.Text(fmt.Sprint(i)), cdc.Text("1"), cdc.Text("name"), cdc.Text("12.50")}
		changes = append(changes, &cdc.Change{Op: cdc.OpUpdate, Table: table, Old: row, New: row})
	}
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		rules.Drops(changes[i%1000])
	}
}
