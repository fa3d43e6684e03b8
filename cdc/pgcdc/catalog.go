package pgcdc

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/freshetdev/freshet/cdc"
)

// A catalog is what the database says of itself, as far as it matters here.
type catalog struct {
	version     int // server_version_num
	publication publication
	tables      []*table // those that are wanted
}

type publication struct {
	exists    bool
	oid       string
	allTables bool
	ops       [4]bool // insert, update, delete, truncate
	viaRoot   bool
}

// A table is one that the rules want.
type table struct {
	cdc.Table
	oid         string
	kind        string // relkind: r, p; others can't be followed
	unlogged    bool
	identity    string // relreplident
	hasKey      bool   // the replica identity exists
	published   bool
	filter      string   // of the rows published
	ancestors   []string // oids of the tables it is a partition of
	leaves      []leaf
	fingerprint string
}

// A leaf is a partition that has rows.
type leaf struct {
	name     string // quoted
	identity string
	hasKey   bool
	differs  bool // from the table's
}

// name is how statements name the table.
func (t *table) name() string { return quote(t.Schema) + "." + quote(t.Name) }

// full is the statement that makes all old values known.
func (t *table) full() string {
	stmts := []string{"ALTER TABLE " + t.name() + " REPLICA IDENTITY FULL;"}
	for _, l := range t.leaves {
		stmts = append(stmts, "ALTER TABLE "+l.name+" REPLICA IDENTITY FULL;")
	}
	return strings.Join(stmts, " ")
}

// keySQL says of the table called by an alias whether its replica identity exists.
func keySQL(c string) string {
	return `(` + c + `.relreplident = 'f' or exists (select from pg_index i where i.indrelid = ` + c + `.oid and i.indisvalid and
		case ` + c + `.relreplident when 'd' then i.indisprimary when 'i' then i.indisreplident else false end))`
}

// readCatalog asks for the tables for which match is true. With nil those of the publication.
func (s *Source) readCatalog(ctx context.Context, d *side, match func(schema, name string) bool) (*catalog, error) {
	c := &catalog{}
	if err := c.read(ctx, d, s.opts.Publication, match); err != nil {
		return nil, fmt.Errorf("pgcdc: catalog: %w", err)
	}
	return c, nil
}

func (c *catalog) read(ctx context.Context, d *side, name string, match func(schema, name string) bool) (err error) {
	if c.version, err = serverVersion(ctx, d); err != nil {
		return err
	}
	rows, err := d.query(ctx, `select oid, puballtables, pubinsert, pubupdate, pubdelete, pubtruncate, pubviaroot from pg_publication where pubname = $1`, name)
	if err != nil {
		return err
	}
	for _, r := range rows {
		c.publication = publication{exists: true, oid: r[0], allTables: r[1] == "t", viaRoot: r[6] == "t"}
		for i := range c.publication.ops {
			c.publication.ops[i] = r[2+i] == "t"
		}
	}
	// The columns that are sent are those of the publication, if it has a list.
	filter, sent := `''`, `a.attgenerated = ''`
	if c.version >= 150000 {
		filter, sent = `coalesce(pt.rowfilter, '')`, sent+` and (pt.attnames is null or a.attname = any(pt.attnames))`
	}
	if c.version >= 180000 { // publish_generated_columns
		sent = `case when a.attgenerated = '' then pt.attnames is null or a.attname = any(pt.attnames) else a.attname = any(pt.attnames) end`
	}
	rows, err = d.query(ctx, `
		select c.oid, n.nspname, c.relname, c.relkind, c.relpersistence = 'u', c.relreplident, `+keySQL("c")+`, pt.tablename is not null, `+filter+`,
			coalesce((select string_agg(relid::oid::text, ' ') from pg_partition_ancestors(c.oid) where relid <> c.oid), '')
		from pg_class c join pg_namespace n on n.oid = c.relnamespace
			left join pg_publication_tables pt on pt.pubname = $1 and pt.schemaname = n.nspname and pt.tablename = c.relname
		where c.relkind in ('r', 'p', 'v', 'm', 'f') and c.relpersistence <> 't' and n.nspname <> 'information_schema' and n.nspname !~ '^pg_'
		order by 2, 3`, name)
	if err != nil {
		return err
	}
	wanted := make(map[string]*table)
	for _, r := range rows {
		t := &table{
			Table: cdc.Table{Schema: r[1], Name: r[2]}, oid: r[0], kind: r[3], unlogged: r[4] == "t", identity: r[5], hasKey: r[6] == "t",
			published: r[7] == "t", filter: r[8], ancestors: strings.Fields(r[9]),
		}
		if match == nil && t.published || match != nil && match(t.Schema, t.Name) {
			wanted[t.oid] = t
			c.tables = append(c.tables, t)
		}
	}
	// What happens in a partition is told of the table that it belongs to.
	c.tables = slices.DeleteFunc(c.tables, func(t *table) bool {
		return slices.ContainsFunc(t.ancestors, func(oid string) bool { return wanted[oid] != nil })
	})
	for _, t := range c.tables {
		// A partition is published with its table, too.
		for _, oid := range t.ancestors {
			if slices.ContainsFunc(rows, func(r []string) bool { return r[0] == oid && r[7] == "t" }) {
				t.published = true
			}
		}
	}
	var oids []string
	for _, t := range c.tables {
		oids = append(oids, t.oid)
	}
	list := "{" + strings.Join(oids, ",") + "}"
	rows, err = d.query(ctx, `
		select c.oid, a.attname, format_type(a.atttypid, a.atttypmod), not a.attnotnull, a.attlen = -1 and a.attstorage <> 'p',
			c.relreplident = 'f' or exists (select from pg_index i where i.indrelid = c.oid and a.attnum = any((i.indkey::int2[])[0:i.indnkeyatts - 1]) and
				case c.relreplident when 'd' then i.indisprimary when 'i' then i.indisreplident else false end)
		from pg_class c join pg_namespace n on n.oid = c.relnamespace join pg_attribute a on a.attrelid = c.oid
			left join pg_publication_tables pt on pt.pubname = $2 and pt.schemaname = n.nspname and pt.tablename = c.relname
		where c.oid = any($1::oid[]) and a.attnum > 0 and not a.attisdropped and `+sent+`
		order by c.oid, a.attnum`, list, name)
	if err != nil {
		return err
	}
	for _, r := range rows {
		for _, t := range c.tables {
			if t.oid == r[0] {
				t.Columns = append(t.Columns, cdc.Column{Name: r[1], Type: r[2], Nullable: r[3] == "t", Omitted: r[4] == "t", NoOld: r[5] != "t"})
			}
		}
	}
	if err := c.readLeaves(ctx, d, list); err != nil {
		return err
	}
	if err := c.readFingerprints(ctx, d, list); err != nil {
		return err
	}
	for _, t := range c.tables {
		if slices.ContainsFunc(t.Columns, func(c cdc.Column) bool { return c.NoOld }) {
			t.Identify = t.full()
		}
	}
	return nil
}

// readLeaves asks for the partitions of partitioned tables.
func (c *catalog) readLeaves(ctx context.Context, d *side, list string) error {
	rows, err := d.query(ctx, `
		select c.oid, n.nspname, l.relname, l.relreplident, `+keySQL("l")+`, l.relreplident <> c.relreplident, not (`+uniformSQL+`)
		from pg_class c, pg_partition_tree(c.oid) t join pg_class l on l.oid = t.relid join pg_namespace n on n.oid = l.relnamespace
		where c.oid = any($1::oid[]) and c.relkind = 'p' and t.isleaf and l.oid <> c.oid
		order by 1, 2, 3`, list)
	if err != nil {
		return err
	}
	for _, r := range rows {
		for _, t := range c.tables {
			if t.oid == r[0] {
				t.leaves = append(t.leaves, leaf{
					name: quote(r[1]) + "." + quote(r[2]), identity: r[3], hasKey: r[4] == "t",
					differs: r[5] == "t" || t.identity == "i" && r[6] == "t",
				})
			}
		}
	}
	return nil
}

// readFingerprints asks for what changes when a table is altered, or one of its partitions attached, detached, truncated or
// rewritten, of which the feed has nothing.
func (c *catalog) readFingerprints(ctx context.Context, d *side, list string) error {
	rows, err := d.query(ctx, `
		select c.oid, md5(concat_ws(' ', n.nspname, c.relname,
			(select string_agg(concat_ws(' ', a.attnum, a.attname, a.atttypid, a.atttypmod, a.attisdropped), ',' order by a.attnum)
				from pg_attribute a where a.attrelid = c.oid and a.attnum > 0),
			case when c.relkind = 'p' then (select string_agg(concat_ws(' ', l.oid, l.relfilenode), ',' order by l.oid)
				from pg_partition_tree(c.oid) t join pg_class l on l.oid = t.relid where t.isleaf) end))
		from pg_class c join pg_namespace n on n.oid = c.relnamespace where c.oid = any($1::oid[])`, list)
	if err != nil {
		return err
	}
	for _, r := range rows {
		for _, t := range c.tables {
			if t.oid == r[0] {
				t.fingerprint = r[1]
			}
		}
	}
	return nil
}

func serverVersion(ctx context.Context, d *side) (int, error) {
	r, err := d.row(ctx, `select current_setting('server_version_num')`)
	if err != nil {
		return 0, err
	}
	return strconv.Atoi(r[0])
}

// hindrances are why a table can't be followed, each with the statement that changes it.
func (t *table) hindrances() (problems []cdc.SourceProblem) {
	add := func(text, fix string) {
		problems = append(problems, cdc.SourceProblem{Table: t.String(), Text: text, Fix: fix})
	}
	kinds := map[string]string{"v": "a view", "m": "a materialized view", "f": "a foreign table"}
	switch {
	case kinds[t.kind] != "":
		add("is "+kinds[t.kind]+", whose changes PostgreSQL doesn't send", "name the tables below it in the rule instead")
		return problems
	case t.unlogged:
		add("is unlogged, so its changes aren't in the log", "ALTER TABLE "+t.name()+" SET LOGGED;")
	}
	if t.kind == "r" && !t.hasKey {
		add("has no replica identity: once it is published, its updates and deletes fail", noKey(t.identity, t.name()))
	}
	for _, l := range t.leaves {
		switch {
		case !l.hasKey:
			add("the partition "+l.name+" has no replica identity: once it is published, its updates and deletes fail", noKey(l.identity, l.name))
		case l.differs:
			fix := map[string]string{"d": "DEFAULT", "f": "FULL"}[t.identity]
			if fix == "" {
				fix = "USING INDEX, the one that belongs to the table's"
			}
			add("the partition "+l.name+" has another replica identity than the table, so old values are taken as unknown",
				"ALTER TABLE "+l.name+" REPLICA IDENTITY "+fix+";")
			problems[len(problems)-1].Warning = true
		}
	}
	if t.filter != "" {
		add("the publication leaves rows out: WHERE "+t.filter, "take the WHERE out of the publication")
	}
	return problems
}

func noKey(identity, name string) string {
	if identity == "d" {
		return "ALTER TABLE " + name + " ADD PRIMARY KEY (...); or ALTER TABLE " + name + " REPLICA IDENTITY FULL;"
	}
	return "ALTER TABLE " + name + " REPLICA IDENTITY DEFAULT; if it has a primary key, else FULL"
}

const publishAll = "publish = 'insert, update, delete, truncate', publish_via_partition_root = true"

// shortcomings are what the publication lacks, each with the statement that adds it. missing are the tables to add.
func (c *catalog) shortcomings(name string) (problems []cdc.SourceProblem, missing []*table) {
	for _, t := range c.tables {
		if !t.published && !slices.ContainsFunc(t.hindrances(), func(p cdc.SourceProblem) bool { return !p.Warning }) {
			missing = append(missing, t)
		}
	}
	add := func(text, fix string) { problems = append(problems, cdc.SourceProblem{Text: text, Fix: fix}) }
	p := c.publication
	if !p.exists {
		add("there is no publication "+name, createPublication(name, missing))
		return problems, missing
	}
	if p.ops != [4]bool{true, true, true, true} {
		add("publication "+name+" leaves out some operations", "ALTER PUBLICATION "+quote(name)+" SET (publish = 'insert, update, delete, truncate');")
	}
	if !p.viaRoot && slices.ContainsFunc(c.tables, func(t *table) bool { return t.kind == "p" }) {
		add("publication "+name+" names partitions instead of their tables", "ALTER PUBLICATION "+quote(name)+" SET (publish_via_partition_root = true);")
	}
	for _, t := range missing {
		problems = append(problems, cdc.SourceProblem{Table: t.String(), Text: "is not in publication " + name, Fix: addTables(name, []*table{t})})
	}
	return problems, missing
}

func createPublication(name string, tables []*table) string {
	return "CREATE PUBLICATION " + quote(name) + " FOR TABLE " + names(tables) + " WITH (" + publishAll + ");"
}

func addTables(name string, tables []*table) string {
	return "ALTER PUBLICATION " + quote(name) + " ADD TABLE " + names(tables) + ";"
}

func names(tables []*table) string {
	if len(tables) == 0 {
		return "..."
	}
	var all []string
	for _, t := range tables {
		all = append(all, t.name())
	}
	return strings.Join(all, ", ")
}

// publish makes the publication what it must be. created and added are what it did. Tables that can't be followed are an error; once
// a stream was open, they are only noted, so that a new table without a key doesn't take the others along.
func (s *Source) publish(ctx context.Context, d *side) (c *catalog, created bool, added []*table, err error) {
	if c, err = s.readCatalog(ctx, d, s.opts.Match); err != nil {
		return nil, false, nil, err
	}
	if len(c.tables) == 0 && s.opts.Match != nil {
		return c, false, nil, errors.New("pgcdc: no table is wanted: none of the database has a name that the rules have")
	}
	var wrong []cdc.SourceProblem
	for _, t := range c.tables {
		wrong = append(wrong, t.hindrances()...)
	}
	lacks, missing := c.shortcomings(s.opts.Publication)
	if s.opts.Create && (s.opened.Load() || cdc.SourceError("pgcdc", wrong) == nil) {
		var stmts []string
		for _, p := range lacks {
			stmts = append(stmts, p.Fix)
			if !c.publication.exists {
				break // it is made with all tables
			}
		}
		for _, stmt := range stmts {
			if _, err = d.query(ctx, stmt); err != nil && !hasCode(err, "42710") { // another was faster
				err = fmt.Errorf("pgcdc: %w; an owner of the tables who may create in the database must run: %s", err, strings.Join(stmts, " "))
				break
			}
			err = nil
		}
		if err == nil && !c.publication.exists {
			var r []string
			if r, err = d.row(ctx, `select oid from pg_publication where pubname = $1`, s.opts.Publication); err == nil {
				c.publication.oid = r[0]
			}
		}
		switch {
		case err == nil:
			created, added, lacks = !c.publication.exists, missing, nil
		case !s.opened.Load() || !hasCode(err, "42501"): // it may not
			return c, false, nil, err
		}
	}
	wrong = append(wrong, lacks...)
	if err := cdc.SourceError("pgcdc", wrong); err != nil && !s.opened.Load() {
		return c, false, nil, err
	}
	s.count(func(st *Stats) { st.Problems = wrong })
	return c, created, added, nil
}

// Tables describes the tables for which match is true. Those that can't be followed, or aren't in the publication when it
// isn't to be made (Options.Create), are an error that names each with the statement to run; the others are described beside it.
func (s *Source) Tables(ctx context.Context, match func(schema, name string) bool) ([]*cdc.Table, error) {
	d := newSide(s.main, s.opts.Timeout)
	defer d.close()
	c, err := s.readCatalog(ctx, d, match)
	if err != nil {
		return nil, err
	}
	var problems []cdc.SourceProblem
	var tables []*cdc.Table
	for _, t := range c.tables {
		own := t.hindrances()
		problems = append(problems, own...)
		if cdc.SourceError("pgcdc", own) == nil {
			tables = append(tables, &t.Table)
		}
	}
	if !s.opts.Create {
		more, _ := c.shortcomings(s.opts.Publication)
		problems = append(problems, more...)
	}
	return tables, cdc.SourceError("pgcdc", problems)
}
