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
	switch c {
	case Minute:
		return clockWindow(t, time.Minute)
	case Hour:
		return clockWindow(t, time.Hour)
	}
	y, m, d := t.Date()
	if !t.Before(dayStart(y, m, d+1, loc)) {
		d++ // clocks moved back over midnight a moment ago: the new date began before that
	}
	date := time.Date(y, m, d, 0, 0, 0, 0, time.UTC)
	y, m, d = date.Date()
	switch c {
	case Day:
		return dayStart(y, m, d, loc), dayStart(y, m, d+1, loc)
	case Week:
		d -= (int(date.Weekday()) + 6) % 7 // days since Monday
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
	if !until.IsZero() && !end.Before(until) { // so does the change before the next
		if s := since(until); s == 0 {
			end = until
		} else {
			end = until.Add(unit - s)
		}
	}
	return start, end
}

// dayStart is the first instant at which the local clock shows a date, or a later one if it skips that. time.Date doesn't do: it may say anything for
// a midnight that doesn't exist, or that comes twice.
func dayStart(y int, m time.Month, d int, loc *time.Location) time.Time {
	midnight := time.Date(y, m, d, 0, 0, 0, 0, time.UTC).Unix() // as the local clock shows it
	// Local clocks are ahead of UTC by 15 hours at most, so this is before it. From there on, offset by offset.
	for t := time.Unix(midnight, 0).In(loc).Add(-16 * time.Hour); ; {
		_, offset := t.Zone()
		_, until := t.ZoneBounds()
		start := time.Unix(midnight-int64(offset), 0).In(loc)
		switch {
		case start.Before(t): // the clock moved over midnight at t
			return t
		case until.IsZero() || start.Before(until):
			return start
		}
		t = until
	}
}
