//go:build !race

package sqlitecdc

const largeRows, manyColumns, oracles = 100_000, 700, 8
