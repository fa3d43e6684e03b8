package model

// A Variant is a world with what happens in it, and perhaps with a defense taken out.
type Variant struct {
	World string
	Name  string
	Want  Want
	Large bool // takes minutes: explored only when asked for

	run func(limit int) Result
}

// Run explores the variant, up to limit states.
func (v Variant) Run(limit int) Result { return v.run(limit) }

// Want is what exploring a variant must bring.
type Want uint8

// What is wanted.
const (
	Keeps  Want = iota // the protocol as built: no state breaks a promise
	Breaks             // a defense is taken out: there is a counterexample
	Hole               // the protocol as built, and still there is one: docs/freshness.md names it
)

// Variants returns all variants, world by world.
func Variants() []Variant {
	var all []Variant
	for _, world := range [][]Variant{keysVariants(), failoverVariants(), tagsVariants(), outboxVariants(), certsVariants()} {
		all = append(all, world...)
	}
	return all
}

func variant[S comparable](world string, want Want, name string, m system[S]) Variant {
	return Variant{World: world, Name: name, Want: want, run: func(limit int) Result { return explore(m, limit) }}
}

func large(v Variant) Variant { v.Large = true; return v }
