// Package config reads freshet.yaml.
//
// It is strict: what isn't known, isn't what it should be, or contradicts something else is an [Error] with its line, a caret below the
// place, and what was wanted. All that is wrong is told at once. What comes from the environment, and passwords, are never printed.
//
// A section is a struct here, and a table of its keys in sections.go. docs/watch.md lists them all; a test compares.
package config

import (
	"os"
	"time"

	"github.com/freshetdev/freshet/cdc"
)

// A Config is a file that was read and checked, as far as that can be done without a server. A duration or number that the file
// leaves out is zero, unless a default is named here.
type Config struct {
	File    string
	Store   Store
	Sources []Source // of cdc, in the order of the file

	src *text
	at  map[string]span
}

// Store is the shared level.
type Store struct {
	URL     URL           // required
	Prefix  string        // with a colon at its end, unless it is empty
	Timeout time.Duration // of one operation

	// Of caches in this process: the gateway's. A pump keeps nothing in memory.
	MaxSize     int64
	StaleAtMost time.Duration
}

// A Source is a database whose changes are followed.
type Source struct {
	Name string
	Kind string // the key that says where it is: "postgres", "mysql", "sqlite"
	URL  URL    // likewise

	Postgres Postgres // if Kind is postgres
	MySQL    MySQL    // if Kind is mysql
	SQLite   SQLite   // if Kind is sqlite

	Rules    []cdc.Rule
	OnGap    cdc.GapPolicy
	Tick     time.Duration
	HoldBack time.Duration
	Again    time.Duration // negative: never
	TakeOver time.Duration
	Batch    int
}

// Postgres is what a PostgreSQL database needs beside its URL.
type Postgres struct {
	Slot, Publication string
	Create            bool
	MaxSlotLag        int64 // bytes; negative: no bound
	Timeout           time.Duration
}

// MySQL is what a MariaDB or MySQL server needs beside its URL.
type MySQL struct {
	Timeout time.Duration
}

// SQLite is what an SQLite file needs beside its URL. What is zero has its default in package sqlitecdc.
type SQLite struct {
	Name    string
	Poll    time.Duration
	MaxRows int64
}

// maxFile bounds a file: nobody writes so much by hand.
const maxFile = 256 << 10

// Load reads a file. lookup has the environment: os.LookupEnv. What is wrong with the file is [Errors].
func Load(file string, lookup func(string) (string, bool)) (*Config, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	return Parse(file, text, lookup)
}

// Parse is Load for the text of a file, whose name is for errors.
func Parse(file string, text []byte, lookup func(string) (string, bool)) (*Config, error) {
	r := newReader(file, text, lookup)
	c := &Config{File: file, src: r.src, at: r.at}
	if root := r.parse(text); root != nil {
		r.config(root, c)
	}
	if errs := r.sorted(); len(errs) > 0 {
		return nil, errs
	}
	return c, nil
}

// Line is where a key stands, such as "cdc.shop-db.rules[2]"; zero if it isn't there.
func (c *Config) Line(key string) int { return c.at[key].line }

// Mistake is an error about a key, for what only others can find out. It stands where the key does, or else one of those above it.
func (c *Config) Mistake(key, problem string) error {
	return Errors{c.src.mistake(key, nearestSpan(c.at, key), problem)}
}

func nearestSpan(at map[string]span, key string) span {
	for {
		if s, ok := at[key]; ok || key == "" {
			return s
		}
		key = parent(key)
	}
}
