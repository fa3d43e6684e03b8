package limit

import (
	"testing"
	"time"
	_ "time/tzdata"
)

func zone(t testing.TB, name string) *time.Location {
	t.Helper()
	loc, err := time.LoadLocation(name)
	if err != nil {
		t.Fatal(err)
	}
	return loc
}

func TestCalendarWindows(t *testing.T) {
	f := func(c Calendar, where, at, start, end string) {
		t.Helper()
		loc := zone(t, where)
		when, err := time.Parse(time.RFC3339, at)
		if err != nil {
			t.Fatal(err)
		}
		s, e := c.window(when, loc)
		if got := s.UTC().Format(time.RFC3339); got != start {
			t.Errorf("%v in %s at %s begins %s; want %s", c, where, at, got, start)
		}
		if got := e.UTC().Format(time.RFC3339); got != end {
			t.Errorf("%v in %s at %s ends %s; want %s", c, where, at, got, end)
		}
	}
	f(Minute, "UTC", "2026-11-23T08:25:59Z", "2026-11-23T08:25:00Z", "2026-11-23T08:26:00Z")
	f(Hour, "UTC", "2026-11-23T08:00:00Z", "2026-11-23T08:00:00Z", "2026-11-23T09:00:00Z")
	f(Hour, "Asia/Kathmandu", "2026-11-23T08:00:00Z", "2026-11-23T07:15:00Z", "2026-11-23T08:15:00Z") // +05:45
	f(Day, "UTC", "2026-11-23T08:00:00Z", "2026-11-23T00:00:00Z", "2026-11-24T00:00:00Z")
	f(Day, "Asia/Tokyo", "2026-11-23T15:00:00Z", "2026-11-23T15:00:00Z", "2026-11-24T15:00:00Z")
	f(Week, "UTC", "2026-11-23T00:00:00Z", "2026-11-23T00:00:00Z", "2026-11-30T00:00:00Z") // a Monday
	f(Week, "UTC", "2026-11-22T23:59:59Z", "2026-11-16T00:00:00Z", "2026-11-23T00:00:00Z")
	f(Month, "UTC", "2024-02-29T12:00:00Z", "2024-02-01T00:00:00Z", "2024-03-01T00:00:00Z") // 29 days
	f(Month, "UTC", "2026-02-28T12:00:00Z", "2026-02-01T00:00:00Z", "2026-03-01T00:00:00Z")
	f(Month, "UTC", "2026-12-31T23:59:59Z", "2026-12-01T00:00:00Z", "2027-01-01T00:00:00Z")
	f(Month, "America/New_York", "2026-04-01T03:59:59Z", "2026-03-01T05:00:00Z", "2026-04-01T04:00:00Z")
	f(Year, "Pacific/Auckland", "2026-12-31T10:59:59Z", "2025-12-31T11:00:00Z", "2026-12-31T11:00:00Z")

	// Clocks in Berlin go from 02:00 to 03:00 on 29 March, and from 03:00 back to 02:00 on 25 October.
	f(Day, "Europe/Berlin", "2026-03-29T12:00:00Z", "2026-03-28T23:00:00Z", "2026-03-29T22:00:00Z")  // 23 hours
	f(Day, "Europe/Berlin", "2026-10-25T12:00:00Z", "2026-10-24T22:00:00Z", "2026-10-25T23:00:00Z")  // 25 hours
	f(Hour, "Europe/Berlin", "2026-10-25T00:30:00Z", "2026-10-25T00:00:00Z", "2026-10-25T01:00:00Z") // 02:30
	f(Hour, "Europe/Berlin", "2026-10-25T01:30:00Z", "2026-10-25T01:00:00Z", "2026-10-25T02:00:00Z") // 02:30 again

	// Lord Howe moves by half an hour: 02:00 to 02:30 on 4 October, 02:00 to 01:30 on 5 April.
	f(Hour, "Australia/Lord_Howe", "2026-10-03T15:00:00Z", "2026-10-03T14:30:00Z", "2026-10-03T16:00:00Z")
	f(Hour, "Australia/Lord_Howe", "2026-10-03T15:45:00Z", "2026-10-03T14:30:00Z", "2026-10-03T16:00:00Z")
	f(Hour, "Australia/Lord_Howe", "2026-04-04T14:50:00Z", "2026-04-04T14:00:00Z", "2026-04-04T15:30:00Z")
	f(Hour, "Australia/Lord_Howe", "2026-04-04T15:20:00Z", "2026-04-04T14:00:00Z", "2026-04-04T15:30:00Z")

	// São Paulo had no midnight on 4 November 2018, and 23:00 to 24:00 twice on 17 February 2018.
	f(Day, "America/Sao_Paulo", "2018-11-04T12:00:00Z", "2018-11-04T03:00:00Z", "2018-11-05T02:00:00Z")
	f(Day, "America/Sao_Paulo", "2018-11-03T12:00:00Z", "2018-11-03T03:00:00Z", "2018-11-04T03:00:00Z")
	f(Day, "America/Sao_Paulo", "2018-02-18T02:30:00Z", "2018-02-17T02:00:00Z", "2018-02-18T03:00:00Z")
	// Havana has two midnights on 1 November 2026: the day begins with the first.
	f(Day, "America/Havana", "2026-11-01T05:30:00Z", "2026-11-01T04:00:00Z", "2026-11-02T05:00:00Z")
	// St. John's went back from 00:01 to 23:01 on 7 November 2010, so the 7th began before the 6th was over.
	f(Day, "America/St_Johns", "2010-11-07T03:00:00Z", "2010-11-07T02:30:00Z", "2010-11-08T03:30:00Z")
	// Apia skipped 30 December 2011.
	f(Day, "Pacific/Apia", "2011-12-30T09:59:59Z", "2011-12-29T10:00:00Z", "2011-12-30T10:00:00Z")
	f(Day, "Pacific/Apia", "2011-12-30T10:00:00Z", "2011-12-30T10:00:00Z", "2011-12-31T10:00:00Z")
}

// Windows hold their time and follow each other without a gap, at every hour and every change of clocks.
func TestCalendarWindowsHaveNoGaps(t *testing.T) {
	for _, name := range []string{
		"UTC", "Europe/Berlin", "America/St_Johns", "America/Sao_Paulo", "America/Havana", "Australia/Lord_Howe", "Pacific/Apia",
		"Asia/Beirut", "Africa/Cairo", "America/Santiago", "Asia/Kathmandu", "Antarctica/Troll", "Africa/Casablanca",
	} {
		loc := zone(t, name)
		for c := Minute; c <= Year; c++ {
			check := func(at time.Time) {
				t.Helper()
				start, end := c.window(at, loc)
				if at.Before(start) || !at.Before(end) {
					t.Fatalf("%s: the %v of %v is %v to %v", name, c, at, start, end)
				}
				for _, inside := range []time.Time{start, end.Add(-1)} {
					if s, e := c.window(inside, loc); !s.Equal(start) || !e.Equal(end) {
						t.Fatalf("%s: the %v of %v is %v to %v, but at %v it is %v to %v", name, c, at, start, end, inside, s, e)
					}
				}
				if next, _ := c.window(end, loc); !next.Equal(end) {
					t.Fatalf("%s: the %v after %v begins %v", name, c, end, next)
				}
			}
			for _, year := range []int{2010, 2011, 2018, 2026} {
				step := 53 * time.Hour
				if c == Minute {
					step = 501 * time.Hour
				}
				for at := time.Date(year, 1, 1, 0, 0, 0, 0, time.UTC); at.Year() == year; at = at.Add(step) {
					check(at)
				}
				for at := time.Date(year, 1, 1, 0, 0, 0, 0, time.UTC).In(loc); ; {
					_, change := at.ZoneBounds()
					if change.IsZero() || change.Year() > year {
						break
					}
					for d := -150 * time.Minute; d <= 150*time.Minute; d += 15 * time.Minute {
						check(change.Add(d))
						check(change.Add(d - 1))
					}
					at = change
				}
			}
		}
	}
}

func TestWindowsOfARule(t *testing.T) {
	p := MustPolicy("p", Spec{Kind: Fixed, Limit: 1, Calendar: Month, Location: zone(t, "Europe/Berlin")})
	at := time.Date(2026, 3, 15, 12, 0, 0, 0, time.UTC).UnixMicro()
	w := p.Rule().Windows(at)
	want := []string{"2026-01-31T23:00:00Z", "2026-02-28T23:00:00Z", "2026-03-31T22:00:00Z", "2026-04-30T22:00:00Z"}
	for i := range w {
		if got := time.UnixMicro(w[i]).UTC().Format(time.RFC3339); got != want[i] {
			t.Errorf("boundary %d is %s; want %s", i, got, want[i])
		}
	}
	if n := testing.AllocsPerRun(100, func() { p.Rule().Windows(at) }); n != 0 {
		t.Errorf("Windows makes %v allocations; want none while the window lasts", n)
	}
	for _, at := range []int64{w[1] - 1, w[2], w[1]} { // what is remembered must not be used for another window
		if got := p.Rule().Windows(at); at < got[1] || at >= got[2] {
			t.Errorf("the window of %d is %d to %d", at, got[1], got[2])
		}
	}

	p = MustPolicy("p", Spec{Kind: Fixed, Limit: 1, Period: 15 * time.Minute})
	at = time.Date(2026, 3, 15, 12, 20, 0, 0, time.UTC).UnixMicro()
	quarter := (15 * time.Minute).Microseconds()
	base := time.Date(2026, 3, 15, 12, 15, 0, 0, time.UTC).UnixMicro()
	if got, want := p.Rule().Windows(at), [4]int64{base - quarter, base, base + quarter, base + 2*quarter}; got != want {
		t.Errorf("windows are %d; want %d", got, want)
	}
	if got := p.Rule().Windows(-1)[1]; got != -quarter {
		t.Errorf("the window before 1970 begins at %d; want %d", got, -quarter)
	}
}

// What is documented at Kind: how many windows of the calendar a time as long as one can touch, each of which admits N.
func TestWorstCaseOfCalendars(t *testing.T) {
	berlin := zone(t, "Europe/Berlin")
	for _, row := range []struct {
		c      Calendar
		length time.Duration
		want   int
	}{
		{Minute, time.Minute, 2}, {Hour, time.Hour, 2}, {Day, 23 * time.Hour, 2}, {Day, 24 * time.Hour, 3}, {Week, 167 * time.Hour, 2},
		{Month, 28*24*time.Hour - time.Hour, 2}, {Month, 31 * 24 * time.Hour, 3}, {Year, 365 * 24 * time.Hour, 2},
	} {
		most := 0
		for start, end := row.c.window(time.Date(2026, 1, 1, 0, 0, 0, 0, berlin), berlin); start.Year() < 2027; start, end = row.c.window(end, berlin) {
			touched := 1 // the last moment of this window, and all after it
			for next := end; next.Before(end.Add(row.length - time.Microsecond)); touched++ {
				_, next = row.c.window(next, berlin)
			}
			if most = max(most, touched); row.c <= Hour && start.YearDay() > 90 { // with the change of clocks on day 88
				break
			}
		}
		if most != row.want {
			t.Errorf("%v of %v touches %d windows of a %v; want %d", row.length, berlin, most, row.c, row.want)
		}
	}
}
