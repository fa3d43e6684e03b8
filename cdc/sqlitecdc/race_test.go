//go:build race

package sqlitecdc

// The driver is SQLite as Go code, and some thirty times slower with the race detector. "make test" runs what is large without it, too.
const largeRows, manyColumns, oracles = 3_000, 100, 1
