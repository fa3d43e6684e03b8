package cdc

// A Rule says what changes of some tables make invalid. Its fields are those of the rules in freshet.yaml.
//
//	{ table: public.products, tags: ["product:{id}"] }
//	{ table: public.products, when_changed: [category_id], tags: ["category:{category_id}"] }
//	{ table: public.users, keys: ["user:{id}:profile"], publish: [{ channel: user-changed, payload: "{id}" }] }
//
// A template is text with columns in braces; {{ and }} are braces.
//
//	{id}                  the column, of the old row and of the new one: two names if they differ
//	{id?}                 likewise, and a null gives no name, rather than something coarse
//	{old.id}, {new.id}    of one of them. A template with {old.…} gives nothing for inserts, one with {new.…} nothing for deletes
//	{table}, {schema}     of the changed table
//
// In a template that has both {id} and {old.…} or {new.…}, {id} stands for old and new in turn, the others stay.
//
// Tags are escaped as freshet.Tag does: "user:{id}" is Tag("user", id). Up to its first colon a tag must be free of
// columns, since that makes the tag of its table, "user!", which is dropped where a name can't be made.
//
// Keys are names of Redis, in full (with the prefix of freshet's client, if it has one and the key is one of its entries). A
// value with blanks, braces, colons or percent signs is written in several ways by different programs, so
// all these are dropped: bare, and escaped as freshet's caches do, with colons and without. Where a name can't be made, all keys are
// deleted that match the template with * for each column.
//
// Channels and payloads get values bare, and * for each column where a name can't be made: a listener must
// take that for "all of them".
type Rule struct {
	// Table is "schema.table", or "table" for one in any schema; * stands for any text in either. As the database has
	// the names: case counts.
	Table string `yaml:"table" json:"table"`

	// Ops are "insert", "update" and "delete". Default all three. TRUNCATE and changes of the schema always count.
	Ops []string `yaml:"ops,omitempty" json:"ops,omitempty"`

	// WhenChanged are columns: an update counts only if it changed one of them, or if that can't be told. Inserts and
	// deletes always count.
	WhenChanged []string `yaml:"when_changed,omitempty" json:"when_changed,omitempty"`

	Tags    []string  `yaml:"tags,omitempty" json:"tags,omitempty"`
	Keys    []string  `yaml:"keys,omitempty" json:"keys,omitempty"`
	Publish []Publish `yaml:"publish,omitempty" json:"publish,omitempty"`

	// NoSweep leaves keys whose names can't be made to their expiry, and counts them (Stats.Unswept), instead of
	// deleting all that match.
	NoSweep bool `yaml:"no_sweep,omitempty" json:"no_sweep,omitempty"`

	// Bulk is how many names of one template one transaction may have before the table's tag takes their place ("*" for
	// messages). Keys aren't limited. Default 2,000.
	Bulk int `yaml:"bulk,omitempty" json:"bulk,omitempty"`
}

// Publish is a message to the subscribers of a Redis channel. Both are templates.
type Publish struct {
	Channel string `yaml:"channel" json:"channel"`
	Payload string `yaml:"payload" json:"payload"`
}
