package cdc

import (
	"errors"
	"fmt"
	"strings"
	"time"
)

// A GapPolicy says what a pump does when part of the changes is gone.
type GapPolicy uint8

const (
	// GapDropAll drops everything and goes on: all entries are misses once.
	GapDropAll GapPolicy = iota

	// GapStop makes Run return an error that matches ErrGap. What is cached stays, and may be stale, until
	// somebody acts; certificates stop.
	GapStop
)

// Options of a [Pump]. A field that is zero gets its default.
type Options struct {
	// Name of the source, the same for all pumps that may take over from each other: marks, certificates, metrics and
	// the log's "by" have it. Letters, digits, dot, dash and underscore. Required.
	Name string

	// Rules say what changes make invalid. Required.
	Rules *Rules

	// Owner names this process in marks; no spaces. A random part is added. Default "pump".
	Owner string

	// Tick is the time between ticks, each of which ends in a certificate. How far instances can bound their distance
	// to the database is about Tick plus their own time between probes. It costs two small writes
	// in each partition and a query of the database. Default 50 ms.
	Tick time.Duration

	// HoldBack is how long the database keeps changes after they were applied, so that they can be read again after
	// a failover of the store lost them. Default 30 s.
	HoldBack time.Duration

	// Batch is how many names (tags, keys, patterns, messages) are kept until the store takes them; then the
	// pump stops reading. Default 10,000.
	Batch int

	// OnGap is what to do when part of the changes is gone. Default GapDropAll.
	OnGap GapPolicy

	// TakeOver is how long the mark of another pump must have stood still before this one takes over, where the database
	// doesn't see to it (Source.Exclusive). Default 3 s; not below 10 ticks.
	TakeOver time.Duration

	// Retry is the pause after an error; it doubles up to 30 times as much. Default 100 ms.
	Retry time.Duration

	// Again deletes the keys of rules a second time after so long: programs that fill bare keys without a lease may have
	// read the old row before the change, and written it after the first time. It should be longer than their
	// queries take. The mark waits for it, so it is done also if the pump dies. Negative: never. Default 1 s.
	Again time.Duration

	// Hooks tell what happens.
	Hooks Hooks
}

func (o Options) withDefaults() (Options, error) {
	if err := validName(o.Name); err != nil {
		return o, err
	}
	if o.Rules == nil {
		return o, errors.New("cdc: Rules is nil; want what NewRules returned")
	}
	if strings.ContainsAny(o.Owner, " \n\r\t") {
		return o, fmt.Errorf("cdc: Owner is %q; want no spaces", o.Owner)
	}
	if o.Owner == "" {
		o.Owner = "pump"
	}
	for _, d := range []struct {
		name string
		at   *time.Duration
		def  time.Duration
	}{
		{"Tick", &o.Tick, 50 * time.Millisecond},
		{"HoldBack", &o.HoldBack, 30 * time.Second},
		{"TakeOver", &o.TakeOver, 3 * time.Second},
		{"Retry", &o.Retry, 100 * time.Millisecond},
	} {
		switch {
		case *d.at < 0:
			return o, fmt.Errorf("cdc: %s is %v; want zero or more", d.name, *d.at)
		case *d.at == 0:
			*d.at = d.def
		}
	}
	o.TakeOver = max(o.TakeOver, 10*o.Tick)
	switch {
	case o.Batch < 0:
		return o, fmt.Errorf("cdc: Batch is %d; want zero or more", o.Batch)
	case o.Batch == 0:
		o.Batch = 10_000
	}
	switch {
	case o.Again < 0:
		o.Again = 0
	case o.Again == 0:
		o.Again = time.Second
	}
	if o.OnGap > GapStop {
		return o, fmt.Errorf("cdc: OnGap is %d; want GapDropAll or GapStop", o.OnGap)
	}
	return o, nil
}

func validName(name string) error {
	const letters = "abcdefghijklmnopqrstuvwxyz"
	if name == "" || len(name) > 100 || strings.Trim(name, letters+strings.ToUpper(letters)+"0123456789._-") != "" {
		return fmt.Errorf("cdc: Name is %q; want 1 to 100 letters, digits, dots, dashes and underscores", name)
	}
	return nil
}
