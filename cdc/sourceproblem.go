package cdc

import (
	"errors"
	"fmt"
)

// A SourceProblem is something that keeps a source from reading changes, or may do so later: what the Check of a source finds.
type SourceProblem struct {
	Table string // "schema.table"; empty if it is about the server, the file, the account, or what the source has there
	Text  string // what is wrong, in a sentence
	Fix   string // the statement to run, or what else to do

	// Warning: it works, with a risk or with more misses than need be.
	Warning bool
}

// String returns "public.orders: ...; fix".
func (p SourceProblem) String() string {
	s := p.Text
	if p.Table != "" {
		s = p.Table + ": " + s
	}
	if p.Fix != "" {
		s += "; " + p.Fix
	}
	return s
}

// SourceError joins problems, but warnings; nil if there are no others. The errors begin with the name of the package that found them.
func SourceError(pkg string, problems []SourceProblem) error {
	var errs []error
	for _, p := range problems {
		if !p.Warning {
			errs = append(errs, fmt.Errorf("%s: %s", pkg, p))
		}
	}
	return errors.Join(errs...)
}
