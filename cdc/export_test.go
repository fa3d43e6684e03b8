package cdc

// OnStep calls f between any two things that a crash could come between.
func (p *Pump) OnStep(f func(step string)) { p.step = f }

// WithoutBarrier leaves the barrier out.
func (p *Pump) WithoutBarrier() { p.noBarrier = true }
