package limit

import (
	"fmt"
	"time"
)

// A Calendar is the window of a Fixed policy.
type Calendar uint8

// The windows of the calendar, in the policy's Location. A window begins at the first instant at which the local clock
// shows a new minute, hour, or date. So a day has 23 or 25 hours when clocks change, an hour that the clock shows twice is two
// windows, and where clocks move by half an hour, one window lasts 90 minutes. No window is shorter than its name, but for
// days and what is made of them. A Week begins on Monday (ISO 8601).
const (
	Minute Calendar = iota + 1
	Hour
	Day
	Week
	Month
	Year
)

// String returns "minute", "hour", "day", "week", "month" or "year".
func (c Calendar) String() string {
	switch c {
	case Minute:
		return "minute"
	case Hour:
		return "hour"
	case Day:
		return "day"
	case Week:
		return "week"
	case Month:
		return "month"
	case Year:
		return "year"
	}
	return fmt.Sprintf("Calendar(%d)", uint8(c))
}

// window is the window of c in loc that holds t.
func (c Calendar) window(t time.Time, loc *time.Location) (start, end time.Time) {
	t = t.In(loc)
	y, m, d := t.Date()
	switch c {
	case Minute:
		return clockWindow(t, time.Minute)
	case Hour:
		return clockWindow(t, time.Hour)
	case Day:
		return dayStart(y, m, d, loc), dayStart(y, m, d+1, loc)
	case Week:
		d -= (int(t.Weekday()) + 6) % 7 // days since Monday
		return dayStart(y, m, d, loc), dayStart(y, m, d+7, loc)
	case Month:
		return dayStart(y, m, 1, loc), dayStart(y, m+1, 1, loc)
	default:
		return dayStart(y, 1, 1, loc), dayStart(y+1, 1, 1, loc)
	}
}

// clockWindow is the time between two marks of the local clock, which are at multiples of unit.
func clockWindow(t time.Time, unit time.Duration) (start, end time.Time) {
	since := func(t time.Time) time.Duration { // the last mark, by the offset that holds at t
		_, offset := t.Zone()
		return (time.Duration(t.Unix()+int64(offset))*time.Second + time.Duration(t.Nanosecond())) % unit
	}
	start, end = t.Add(-since(t)), t.Add(unit-since(t))
	from, until := t.ZoneBounds()
	if !from.IsZero() && start.Before(from) { // the last mark stands before the change
		last := from.Add(-1)
		start = last.Add(-since(last))
	}
	if !until.IsZero() && end.After(until) { // so does the change before the next
		if s := since(until); s == 0 {
			end = until
		} else {
			end = until.Add(unit - s)
		}
	}
	return start, end
}

// dayStart is the first instant of a date. time.Date knows it but for dates without a midnight, or with two.
func dayStart(y int, m time.Month, d int, loc *time.Location) time.Time {
	noon := time.Date(y, m, d, 12, 0, 0, 0, loc)
	y, m, d = noon.Date()
	midnight := time.Date(y, m, d, 0, 0, 0, 0, loc)
	if midnight.Day() != d { // 23:00 of the day before: it doesn't exist
		_, until := midnight.ZoneBounds()
		return until
	}
	from, _ := midnight.ZoneBounds()
	if from.IsZero() {
		return midnight
	}
	if midnight.Hour() != 0 { // 01:00: it doesn't exist
		return from
	}
	// At from, clocks may have moved back over midnight: then the first midnight was before.
	_, now := midnight.Zone()
	_, before := from.Add(-1).Zone()
	if first := midnight.Add(time.Duration(now-before) * time.Second); first.Before(from) && first.Before(midnight) {
		return first
	}
	return midnight
}
