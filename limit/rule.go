package limit

import (
	"slices"
	"sync/atomic"
	"time"
)

// A Rule is a policy as stores see it: numbers only, times in µs. Its methods are the arithmetic, so that stores in Go need
// none of their own; a store in another language follows the same steps.
//
// # One limit
//
// A charge of cost units needs room for max(cost, 1): one of cost 0 asks, and changes nothing. It fits if the need is at most the
// room; then the units are charged. Retry is the time until the need would fit if nobody else took anything, More until one unit more than what remains
// would, Reset until nothing counts any more. All divisions are of integers, and round down.
//
// GCRA. State: TAT, a time; absent is in the past.
//
//	debt     TAT − now, at least 0, at most Cap               (Cap: a clock that stepped back refuses for no longer)
//	room     (Tolerance − debt) / Interval, at least 0
//	retry    debt + need·Interval − Tolerance; never if need > Burst
//	charge   debt + cost·Interval                             (by Adjust: at most Cap)
//	give     debt − units·Interval, at least 0
//	reset    debt
//	write    TAT = now + debt, expires after debt; debt 0: delete
//
// Strict. State: pairs of a time and the units admitted then, oldest first, all times different.
//
//	clean    set times after now to now, and add pairs of the same time up; pairs with now − time ≥ Span count for nothing
//	used     the sum of units of those that count
//	room     Limit − used, at least 0
//	retry    time + Span − now of the first that counts such that it and all before it free enough; never if need > Limit
//	charge   remove pairs that don't count; then add the cost to the last pair, if its time is not before slot, or
//	         as a pair of slot, where slot is now − now mod Grain              (by Adjust: used is at most Limit + Debt)
//	give     remove pairs that don't count; then take units from the oldest on, but from none before the At of what is given
//	         back, rounded down to Grain; nothing if At, so rounded, + Span ≤ now
//	reset    time + Span − now of the last pair
//	write    expires after time + 11 · Period/10 − now of the last pair, Period/10 rounded up, whatever Limit is; no pairs: delete
//
// Fixed. State: the start of a window, and the units used. The window of now is [start, end).
//
//	clean    used = 0 if the state's start is before the window's; then state's start = the window's
//	room     Limit − used, at least 0
//	retry    end − now; never if need > Limit
//	charge   used + cost                                      (by Adjust: at most Limit + Debt)
//	give     used − units, at least 0; nothing if the At of what is given back is known and before start
//	reset    end − now; 0 if nothing is used
//	write    expires after end − now; used 0: delete
//
// Concurrency. State: leases of an id, units, and the time until which each holds, in the order of that time (then of taking).
//
//	clean    remove leases with until ≤ now; set an until after now + TTL to that
//	used     the sum of units
//	room     Limit − used, at least 0
//	retry    until − now of the first lease such that it and all before it free enough; never if need > Limit
//	charge   add a lease until now + TTL, in place of one with its id; none if cost is 0
//	renew    until = now + TTL if the lease is there, else it is lost
//	give     remove the lease
//	reset    until − now of the last lease
//	write    expires after reset; no leases: delete
//
// # Penalty
//
// A record beside the state, of the same name and key whatever the kind: since, count, until.
//
//	clean    until at most now + Block, since at most now
//	blocked  until > now: nothing fits; retry = until − now, or what the limit itself says if that is longer
//	refused  (not blocked, and not for ever) a record with now − since ≥ Within, or with an until, starts anew: since = now, count = 0.
//	         Then count + 1; if that is After: until = now + Block, and the retry of this refusal is at least Block
//	write    expires after until − now, or since + Within − now
//
// # Several limits
//
// All are looked at with the same now. If all that aren't Shadow fit, those that fit are charged; else none is. A limit that
// doesn't fit counts for its own penalty, either way.
//
// # Expiry, changed policies
//
// A state is written when something was charged, adjusted, renewed or released; a record, when a refusal found no room. A charge that
// is refused writes a state or a record only to heal it: if "clean" took times back that were too far ahead. Otherwise what a clock's step left ahead would
// be as far ahead the next time, and refuse for as long as the step. State that expired or was lost is as if it had never been. A store keeps it at least until the time given with "write", rounded up to what it can
// keep time in, and heals state that has no expiry by writing one. State that can't be read counts as absent.
//
// A changed policy goes on with the state: GCRA's debt stays the same time, so more units per Period flow
// back in the time that the old debt takes; units used stay used for Strict, Fixed (as far as they were used in the new window's time) and Concurrency.
// Lower numbers take effect at once, by Cap, Tolerance and Limit. With longer times, what expired by the
// old ones may be forgotten already, or not.
type Rule struct {
	Kind  Kind
	Limit int64

	// GCRA
	Burst     int64
	Interval  int64 // of a unit: Period / Limit, rounded up; 0 if Limit is 0
	Tolerance int64 // Burst · Interval
	Cap       int64 // (Burst + Debt) · Interval

	// Strict
	Grain int64 // sub-window: 1, or a tenth of Period, rounded up, if Limit is over LogMax
	Span  int64 // how long a pair counts: Period, or 11 · Grain
	Keep  int64 // how long it is kept: the latter

	Debt int64 // Strict, Fixed, GCRA: units by which Adjust may exceed Limit (GCRA: Burst)
	TTL  int64 // Concurrency

	// Penalty; After is 0 if there is none.
	After, Within, Block int64

	// Fixed
	period   int64 // 0: calendar
	calendar Calendar
	location *time.Location
	windows  *atomic.Pointer[[4]int64] // the last answer of Windows
}

func ruleOf(s Spec) Rule {
	r := Rule{Kind: s.Kind, Limit: s.Limit, Debt: max(s.Debt, 0)}
	period := s.Period.Microseconds()
	switch s.Kind {
	case GCRA:
		r.Burst = s.Burst
		if s.Limit > 0 {
			r.Interval = intervalOf(s)
		}
		r.Tolerance = r.Burst * r.Interval
		r.Cap = (r.Burst + r.Debt) * r.Interval
	case Strict:
		tenth := (period + 9) / 10
		r.Grain, r.Span, r.Keep = 1, period, 11*tenth
		if s.Limit > LogMax {
			r.Grain, r.Span = tenth, r.Keep
		}
	case Fixed:
		r.period, r.calendar, r.location = period, s.Calendar, s.Location
		r.windows = new(atomic.Pointer[[4]int64])
	case Concurrency:
		r.TTL = s.TTL.Microseconds()
	}
	if s.Penalty.After > 0 {
		r.After, r.Within, r.Block = s.Penalty.After, s.Penalty.Within.Microseconds(), s.Penalty.Block.Microseconds()
	}
	return r
}

// Most is the largest cost that can ever be admitted: Burst for GCRA, else Limit.
func (r *Rule) Most() int64 {
	if r.Kind == GCRA {
		return r.Burst
	}
	return r.Limit
}

// Windows are the starts of the window before the one that holds now (µs since 1970, Fixed only), of that window and of the two
// after it. A store whose own clock is not here sends them along, so that the server finds its window though the
// clock here is off by up to a window's length.
func (r *Rule) Windows(now int64) [4]int64 {
	if r.calendar == 0 {
		start := now - mod(now, r.period)
		return [4]int64{start - r.period, start, start + r.period, start + 2*r.period}
	}
	if w := r.windows.Load(); w != nil && w[1] <= now && now < w[2] {
		return *w
	}
	start, end := r.calendar.window(time.UnixMicro(now), r.location)
	before, _ := r.calendar.window(start.Add(-1), r.location)
	_, after := r.calendar.window(end, r.location)
	w := [4]int64{before.UnixMicro(), start.UnixMicro(), end.UnixMicro(), after.UnixMicro()}
	r.windows.Store(&w)
	return w
}

// mod is a modulo b, not negative.
func mod(a, b int64) int64 {
	if m := a % b; m < 0 {
		return m + b
	} else {
		return m
	}
}

// A State is what a store knows of one name, kind and key. The zero State is absent.
type State struct {
	TAT         int64   // GCRA
	Spent       []Spent // Strict
	Start, Used int64   // Fixed
	Held        []Held  // Concurrency
	Record      Record  // of the penalty
}

// A Spent is what Strict admitted at a time.
type Spent struct{ At, Units int64 }

// A Held is a lease of Concurrency.
type Held struct {
	ID           ID
	Units, Until int64
}

// A Record is the state of a penalty.
type Record struct{ Since, Count, Until int64 }

// A View is what a rule says of a state: the numbers of a [Status], in µs.
type View struct {
	Room               int64
	Retry, More, Reset int64 // Retry is of the need asked for; Never
	Fits               bool
	Blocked            bool
}

// Never is the Retry of a cost that can't ever be admitted.
const Never = -1

// Status is the answer to c, of which the rule said v; charged says whether it was then charged, and v is of after that but for its Fits
// and Retry. at is [Status].At.
func (v View) Status(c *Charge, charged bool, at int64) Status {
	var s Status
	v.fill(&s, c, charged, at)
	return s
}

func (v *View) fill(s *Status, c *Charge, charged bool, at int64) {
	s.Policy, s.Key, s.Cost, s.Remaining = c.Policy, c.Key, c.Cost, v.Room
	s.MoreAfter, s.ResetAfter = time.Duration(v.More)*time.Microsecond, time.Duration(v.Reset)*time.Microsecond
	s.At, s.Fits, s.Charged, s.Blocked, s.Shadow = at, v.Fits, charged, v.Blocked, c.Shadow
	switch {
	case v.Fits:
	case v.Retry == Never:
		s.RetryAfter = NeverRetry
	default:
		s.RetryAfter = time.Duration(v.Retry) * time.Microsecond
	}
}

// debt is GCRA's debt at now.
func (r *Rule) debt(tat, now int64) int64 { return min(max(tat-now, 0), r.Cap) }

// ViewGCRA is what the rule says of a debt (TAT − now). A store whose server answers with that
// one number makes the rest of the answer with it.
func (r *Rule) ViewGCRA(debt, cost int64) View {
	need := max(cost, 1)
	v := View{Reset: debt}
	if debt < r.Tolerance {
		v.Room = (r.Tolerance - debt) / r.Interval
	}
	if v.Room < r.Burst {
		v.More = debt + (v.Room+1)*r.Interval - r.Tolerance
	}
	switch {
	case need > r.Burst:
		v.Retry = Never
	case need <= v.Room:
		v.Fits = true
	default:
		v.Retry = debt + need*r.Interval - r.Tolerance
	}
	return v
}

// TakeGCRA decides a charge of cost units on a TAT: next is the TAT to write, if it is to be written; next − now is the debt that AnswerGCRA
// makes the answer of. It does no more than that, for stores that change the TAT by compare and swap: the less happens in between, the
// more seldom it has to be done again.
func (r *Rule) TakeGCRA(tat, now, cost int64) (next int64, fits, write bool) {
	debt, need := r.debt(tat, now), max(cost, 1)
	if need <= r.Burst && debt+need*r.Interval <= r.Tolerance {
		return now + debt + cost*r.Interval, true, cost > 0 || tat-now > r.Cap
	}
	return now + debt, false, tat-now > r.Cap
}

// AnswerGCRA makes the answer to c, which was decided and left a debt: fits says that it did fit, and charged that it was charged. It says
// what [Rule.ViewGCRA] does, but writes it where it belongs: to copy a View costs more than to make one.
func (r *Rule) AnswerGCRA(s *Status, c *Charge, debt int64, fits, charged bool) {
	room := int64(0)
	if debt < r.Tolerance {
		room = (r.Tolerance - debt) / r.Interval
	}
	s.Policy, s.Key, s.Cost, s.Remaining = c.Policy, c.Key, c.Cost, room
	if s.MoreAfter = 0; room < r.Burst {
		s.MoreAfter = time.Duration(debt+(room+1)*r.Interval-r.Tolerance) * time.Microsecond
	}
	switch need := max(c.Cost, 1); {
	case fits:
		s.RetryAfter = 0
	case need > r.Burst:
		s.RetryAfter = NeverRetry
	default:
		s.RetryAfter = time.Duration(debt+need*r.Interval-r.Tolerance) * time.Microsecond
	}
	s.ResetAfter, s.At = time.Duration(debt)*time.Microsecond, 0
	s.Fits, s.Charged, s.Blocked, s.Shadow, s.Source = fits, charged, false, c.Shadow, FromStore
}

// Clean brings a state to now: what expired is gone, what a clock that stepped back left too far in the future is moved back. It reports
// whether the latter happened to the state, or to the penalty's record: then they are to be written.
func (r *Rule) Clean(s *State, now int64) (state, record bool) {
	switch r.Kind {
	case GCRA:
		state = s.TAT-now > r.Cap
		s.TAT = now + r.debt(s.TAT, now)
	case Strict:
		for n := len(s.Spent) - 1; n >= 0 && s.Spent[n].At > now; n-- {
			state = true
			if s.Spent[n].At = now; n+1 < len(s.Spent) {
				s.Spent[n].Units += s.Spent[n+1].Units
				s.Spent = s.Spent[:n+1]
			}
		}
		if n := len(s.Spent) - 1; n > 0 && s.Spent[n].At == s.Spent[n-1].At {
			s.Spent[n-1].Units += s.Spent[n].Units
			s.Spent = s.Spent[:n]
		}
	case Fixed:
		start := r.Windows(now)[1]
		if s.Start < start {
			s.Used = 0
		}
		state = s.Start > start
		s.Start = start
	case Concurrency:
		kept := s.Held[:0]
		for _, h := range s.Held {
			if h.Until > now+r.TTL {
				h.Until, state = now+r.TTL, true
			}
			if h.Until > now {
				kept = append(kept, h)
			}
		}
		s.Held = kept
	}
	if s.Record.Since > now {
		s.Record.Since, record = now, true
	}
	if r.After > 0 && s.Record.Until > now+r.Block {
		s.Record.Until, record = now+r.Block, true
	}
	return state, record
}

// View says what a charge of cost would find in a clean state.
func (r *Rule) View(s *State, now, cost int64) View {
	var v View
	switch need := max(cost, 1); r.Kind {
	case GCRA:
		v = r.ViewGCRA(s.TAT-now, cost)
	case Strict:
		spent := r.counting(s, now)
		v = r.viewUsed(sum(spent), need, func(free int64) int64 {
			for _, p := range spent {
				if free -= p.Units; free <= 0 {
					return p.At + r.Span - now
				}
			}
			return 0
		})
		if n := len(spent); n > 0 {
			v.Reset = spent[n-1].At + r.Span - now
		}
	case Fixed:
		rest := r.Windows(now)[2] - now
		v = r.viewUsed(s.Used, need, func(int64) int64 { return rest })
		if s.Used > 0 {
			v.Reset = rest
		}
	case Concurrency:
		var used int64
		for _, h := range s.Held {
			used += h.Units
		}
		v = r.viewUsed(used, need, func(free int64) int64 {
			for _, h := range s.Held {
				if free -= h.Units; free <= 0 {
					return h.Until - now
				}
			}
			return 0
		})
		if n := len(s.Held); n > 0 {
			v.Reset = s.Held[n-1].Until - now
		}
	}
	if r.After > 0 && s.Record.Until > now {
		v.Blocked, v.Fits = true, false
		if v.Retry != Never {
			v.Retry = max(v.Retry, s.Record.Until-now)
		}
	}
	return v
}

// viewUsed is View for kinds that count what is used; after tells when so many units will be free again.
func (r *Rule) viewUsed(used, need int64, after func(units int64) int64) View {
	v := View{Room: max(r.Limit-used, 0)}
	if v.Room < r.Limit {
		v.More = after(used + v.Room + 1 - r.Limit)
	}
	switch {
	case need > r.Limit:
		v.Retry = Never
	case need <= v.Room:
		v.Fits = true
	default:
		v.Retry = after(used + need - r.Limit)
	}
	return v
}

// Charge charges what fits into a clean state. id is that of the lease.
func (r *Rule) Charge(s *State, now, cost int64, id ID) {
	if cost == 0 {
		return
	}
	switch r.Kind {
	case GCRA:
		s.TAT += cost * r.Interval
	case Strict:
		r.spend(s, now, cost)
	case Fixed:
		s.Used += cost
	case Concurrency:
		r.Release(s, id)
		s.Held = append(s.Held, Held{id, cost, now + r.TTL})
	}
}

// counting are the pairs that count.
func (r *Rule) counting(s *State, now int64) []Spent {
	for i, p := range s.Spent {
		if now-p.At < r.Span {
			return s.Spent[i:]
		}
	}
	return nil
}

func sum(spent []Spent) (units int64) {
	for _, p := range spent {
		units += p.Units
	}
	return units
}

// forget removes the pairs that don't count.
func (r *Rule) forget(s *State, now int64) {
	s.Spent = append(s.Spent[:0], r.counting(s, now)...)
}

func (r *Rule) spend(s *State, now, units int64) {
	r.forget(s, now)
	slot := now - mod(now, r.Grain)
	if n := len(s.Spent); n > 0 && s.Spent[n-1].At >= slot {
		s.Spent[n-1].Units += units
	} else {
		s.Spent = append(s.Spent, Spent{slot, units})
	}
}

// Refuse notes in a clean state that it didn't fit, and returns the retry that the penalty makes of the view's.
func (r *Rule) Refuse(s *State, now int64, v View) View {
	if r.After == 0 || v.Blocked || v.Retry == Never {
		return v
	}
	rec := &s.Record
	if now-rec.Since >= r.Within || rec.Until > 0 || rec.Count == 0 {
		*rec = Record{Since: now}
	}
	if rec.Count++; rec.Count >= r.After {
		rec.Until = now + r.Block
		v.Blocked, v.Retry = true, max(v.Retry, r.Block)
	}
	return v
}

// Adjust charges units more to a clean state, whether there is room or not, as far as Debt goes; or gives back units if they are negative.
// at is the At of the decision that charged what is given back, 0 if not known. Concurrency has nothing to adjust.
func (r *Rule) Adjust(s *State, now, units, at int64) {
	switch r.Kind {
	case GCRA:
		units = min(max(units, -r.Burst-r.Debt), r.Burst+r.Debt)
		s.TAT = now + min(max(s.TAT-now+units*r.Interval, 0), r.Cap)
	case Strict:
		if n := min(units, r.Limit+r.Debt-sum(r.counting(s, now))); n > 0 {
			r.spend(s, now, n)
		}
	case Fixed:
		if units > 0 {
			s.Used = max(s.Used, min(s.Used+units, r.Limit+r.Debt))
		}
	}
	if units < 0 {
		r.giveBack(s, now, -units, at)
	}
}

func (r *Rule) giveBack(s *State, now, units, at int64) {
	switch r.Kind {
	case Strict:
		r.forget(s, now)
		if at > 0 {
			at -= mod(at, r.Grain)
			if at+r.Span <= now {
				return // it counts no more
			}
		}
		for i := range s.Spent {
			if p := &s.Spent[i]; p.At >= at {
				n := min(units, p.Units)
				p.Units -= n
				units -= n
			}
		}
		s.Spent = slices.DeleteFunc(s.Spent, func(p Spent) bool { return p.Units == 0 })
	case Fixed:
		if at == 0 || at >= s.Start {
			s.Used = max(s.Used-units, 0)
		}
	}
}

// Renew makes a lease in a clean state last for another TTL; false if it isn't there.
func (r *Rule) Renew(s *State, now int64, id ID) bool {
	for i, h := range s.Held {
		if h.ID == id {
			h.Until = now + r.TTL
			s.Held = append(slices.Delete(s.Held, i, i+1), h)
			return true
		}
	}
	return false
}

// Release ends a lease; false if it isn't there.
func (r *Rule) Release(s *State, id ID) bool {
	n := len(s.Held)
	s.Held = slices.DeleteFunc(s.Held, func(h Held) bool { return h.ID == id })
	return len(s.Held) < n
}

// Expires is the time after which a clean state says nothing any more, without its penalty, and the time after
// which the penalty's record doesn't; 0 if they say nothing now.
func (r *Rule) Expires(s *State, now int64) (state, record int64) {
	switch r.Kind {
	case GCRA:
		state = s.TAT - now
	case Strict:
		if n := len(s.Spent); n > 0 {
			state = s.Spent[n-1].At + r.Keep - now
		}
	case Fixed:
		if s.Used > 0 {
			state = r.Windows(now)[2] - now
		}
	case Concurrency:
		if n := len(s.Held); n > 0 {
			state = s.Held[n-1].Until - now
		}
	}
	switch rec := s.Record; {
	case rec.Until > 0:
		record = max(rec.Until-now, 0)
	case rec.Count > 0:
		record = max(rec.Since+r.Within-now, 0)
	}
	return state, record
}

// A Cell is one charge, and what a store knows of its key.
type Cell struct {
	Charge Charge
	State  *State
	Now    int64 // the store's clock, µs since 1970

	Status                  Status // the answer
	WriteState, WriteRecord bool   // what is to be written

	view View
}

func (c *Cell) look() {
	r := &c.Charge.Policy.rule
	c.WriteState, c.WriteRecord = r.Clean(c.State, c.Now)
	c.view = r.View(c.State, c.Now, c.Charge.Cost)
}

func (c *Cell) answer(charged bool) {
	at := int64(0)
	if k := c.Charge.Policy.rule.Kind; k == Strict || k == Fixed {
		at = c.Now
	}
	c.Status = c.view.Status(&c.Charge, charged, at)
}

// PeekCells says in the cells' Status what their charges would find. It cleans their states, which aren't to be written.
func PeekCells(cells []Cell) {
	for i := range cells {
		cells[i].look()
		cells[i].answer(false)
	}
}

// TakeCells decides the charges of the cells as one, as [Store].TakeAll does, and changes their states.
func TakeCells(cells []Cell) {
	admitted := true
	for i := range cells {
		c := &cells[i]
		c.look()
		admitted = admitted && (c.view.Fits || c.Charge.Shadow)
	}
	for i := range cells {
		c := &cells[i]
		r := &c.Charge.Policy.rule
		charged := false
		switch {
		case !c.view.Fits:
			before := c.State.Record
			c.view = r.Refuse(c.State, c.Now, c.view)
			c.WriteRecord = c.WriteRecord || c.State.Record != before
		case admitted && c.Charge.Cost > 0:
			r.Charge(c.State, c.Now, c.Charge.Cost, c.Charge.Lease)
			c.view = r.View(c.State, c.Now, 1)
			c.view.Fits, c.view.Blocked, charged = true, false, true
			c.WriteState = true
		}
		c.answer(charged)
	}
}
