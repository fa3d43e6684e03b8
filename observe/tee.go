package observe

// Tee joins listeners: each event goes to every one of hooks that wants it, in their
// order. A function that nobody set stays nil, so what nobody listens to costs
// nothing.
func Tee(hooks ...Hooks) Hooks {
	return Hooks{
		Hit:        join(hooks, func(h *Hooks) func(Hit) { return h.Hit }),
		Miss:       join(hooks, func(h *Hooks) func(Miss) { return h.Miss }),
		Load:       join(hooks, func(h *Hooks) func(Load) { return h.Load }),
		Fill:       join(hooks, func(h *Hooks) func(Fill) { return h.Fill }),
		Shed:       join(hooks, func(h *Hooks) func(Shed) { return h.Shed }),
		Source:     join(hooks, func(h *Hooks) func(Source) { return h.Source }),
		Drop:       join(hooks, func(h *Hooks) func(Drop) { return h.Drop }),
		Overflow:   join(hooks, func(h *Hooks) func(Overflow) { return h.Overflow }),
		Link:       join(hooks, func(h *Hooks) func(Link) { return h.Link }),
		Gap:        join(hooks, func(h *Hooks) func(Gap) { return h.Gap }),
		Epoch:      join(hooks, func(h *Hooks) func(Epoch) { return h.Epoch }),
		Trust:      join(hooks, func(h *Hooks) func(Trust) { return h.Trust }),
		Breaker:    join(hooks, func(h *Hooks) func(Breaker) { return h.Breaker }),
		StoreError: join(hooks, func(h *Hooks) func(StoreError) { return h.StoreError }),
		Mutated:    join(hooks, func(h *Hooks) func(Mutated) { return h.Mutated }),
		Mismatch:   join(hooks, func(h *Hooks) func(Mismatch) { return h.Mismatch }),
		Panic:      join(hooks, func(h *Hooks) func(Panic) { return h.Panic }),
	}
}

// join returns one function that calls the picked function of each of hooks; nil if
// none has it, and the function itself if one has, so that a lone listener costs no
// second call.
func join[E any](hooks []Hooks, pick func(*Hooks) func(E)) func(E) {
	var wanted []func(E)
	for i := range hooks {
		if f := pick(&hooks[i]); f != nil {
			wanted = append(wanted, f)
		}
	}
	switch len(wanted) {
	case 0:
		return nil
	case 1:
		return wanted[0]
	}
	return func(e E) {
		for _, f := range wanted {
			f(e)
		}
	}
}
