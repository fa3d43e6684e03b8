package limit

import (
	"maps"
	"sync"
	"sync/atomic"
)

// Overrides is a table of keys to which another policy applies, or none, for Options.Override. It can be
// changed while it is in use. The zero Overrides is empty.
//
//	var vip limit.Overrides
//	l, err := limit.New(store, limit.Options{Override: vip.Policy})
//	vip.Set(perUser, "ada", generous)
//	vip.Set(perUser, "healthcheck", nil) // exempt
//
// An override of the same name and kind goes on with what the key has used; one of another name counts from zero.
type Overrides struct {
	mu    sync.Mutex // held while changing
	table atomic.Pointer[map[override]*Policy]
}

type override struct{ policy, key string }

// Set makes to hold for the key instead of p and of all policies of p's name; nil exempts the key. Two policies that are asked in one decision need
// two policies in their place too: requests of the same limit are an error.
func (o *Overrides) Set(p *Policy, key string, to *Policy) {
	o.change(func(m map[override]*Policy) { m[override{p.name, key}] = to })
}

// Remove ends what Set did.
func (o *Overrides) Remove(p *Policy, key string) {
	o.change(func(m map[override]*Policy) { delete(m, override{p.name, key}) })
}

// Replace makes the table the one that fill sets, at once: nobody sees a part of it. fill must not call other methods of o.
func (o *Overrides) Replace(fill func(set func(p *Policy, key string, to *Policy))) {
	next := map[override]*Policy{}
	fill(func(p *Policy, key string, to *Policy) { next[override{p.name, key}] = to })
	o.mu.Lock()
	defer o.mu.Unlock()
	o.table.Store(&next)
}

// change copies the table, which readers use without a lock.
func (o *Overrides) change(f func(map[override]*Policy)) {
	o.mu.Lock()
	defer o.mu.Unlock()
	next := map[override]*Policy{}
	if m := o.table.Load(); m != nil {
		next = maps.Clone(*m)
	}
	f(next)
	o.table.Store(&next)
}

// Policy is for Options.Override.
func (o *Overrides) Policy(p *Policy, key string) *Policy {
	if m := o.table.Load(); m != nil && len(*m) > 0 {
		if to, found := (*m)[override{p.name, key}]; found {
			return to
		}
	}
	return p
}
