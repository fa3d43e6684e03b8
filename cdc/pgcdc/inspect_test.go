package pgcdc

import (
	"context"
	"testing"
)

// Slot tells who reads, what is kept, and which transaction holds it back.
func TestSlot(t *testing.T) {
	pg := postgres(t)
	d := database(t, pg)
	d.sql("create table t (id int primary key)")
	s := d.source()
	look := func() SlotState {
		t.Helper()
		k, err := s.Slot(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		return k
	}
	if k := look(); k.Exists || k.Name != d.name || k.Writer != nil {
		t.Errorf("before the first start: %+v; want no slot", k)
	}
	r := d.open(s, "")
	if k := look(); !k.Exists || k.Reader == 0 || k.Status != "reserved" {
		t.Errorf("with a reader: %+v", k)
	}
	r.Close()
	await(t, "the reader is gone", func() bool { return look().Reader == 0 })
	before := look()
	d.sql("insert into t select generate_series(1, 10000)")
	if k := look(); k.Retained <= before.Retained || k.Unconfirmed <= before.Unconfirmed {
		t.Errorf("after 10,000 rows: %+v; want more than %+v", k, before)
	}

	writer := d.dial()
	defer writer.Close(context.Background())
	if _, err := run(writer, "begin; set application_name = 'nightly'; insert into t values (0)"); err != nil {
		t.Fatal(err)
	}
	if w := look().Writer; w == nil || w.Pid != int(writer.PID()) || w.User != "freshet" || w.Application != "nightly" || w.State != "idle in transaction" {
		t.Errorf("the writer is %+v; want the one of %d", w, writer.PID())
	}
	if _, err := run(writer, "prepare transaction 'left'"); err != nil {
		t.Fatal(err)
	}
	if w := look().Writer; w == nil || w.Pid != 0 || w.State != "prepared" {
		t.Errorf("the writer is %+v; want one that is prepared", w)
	}
	d.sql("rollback prepared 'left'")
	if w := look().Writer; w != nil {
		t.Errorf("the writer is %+v; want none", w)
	}
}
