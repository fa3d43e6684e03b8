package mysqlcdc

import (
	"context"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/freshetdev/freshet/cdc"
	"github.com/freshetdev/freshet/cdc/cdctest"
)

// TestContract is the contract of sources, with rows in full, and with as little of them as MariaDB can write.
func TestContract(t *testing.T) {
	my := mariadb(t, "plugin-maturity=unknown", "rpl-semi-sync-master-enabled=0", "rpl-semi-sync-master-wait-point=AFTER_SYNC", "rpl-semi-sync-master-timeout=600000")
	for _, image := range []string{"FULL", "MINIMAL"} {
		t.Run(image, func(t *testing.T) {
			my.SQL(t, "set global binlog_row_image = '"+image+"'")
			cdctest.Run(t, func(t *testing.T) cdctest.Fixture { return fixture(t, database(t, my), image) })
		})
	}
}

func fixture(t *testing.T, d *db, image string) cdctest.Fixture {
	table := d.name + ".items"
	d.sql("create table items (id int primary key, name text not null, note text)")
	var (
		held   sync.WaitGroup // transactions that don't return yet
		isHeld bool
	)
	sql := func(end string, rows []cdctest.Row) string {
		stmts := []string{"begin"}
		for _, r := range rows {
			stmts = append(stmts, r.SQL(table))
		}
		return strings.Join(append(stmts, end), "; ")
	}
	// Some cases execute in goroutines.
	exec := func(text string) {
		conn := d.dial()
		defer conn.Close()
		if _, err := run(conn, text); err != nil {
			t.Errorf("%s: %v", text, err)
		}
	}
	return cdctest.Fixture{
		New:   func() cdc.Source { return d.source() },
		Table: table,
		Exec: func(rows ...cdctest.Row) {
			if isHeld {
				held.Go(func() { exec(sql("commit", rows)) })
				return
			}
			exec(sql("commit", rows))
		},
		Rollback: func(rows ...cdctest.Row) { exec(sql("rollback", rows)) },
		Rows: func() map[int]string {
			rows := map[int]string{}
			for line := range strings.Lines(d.sql("select id, name from items")) {
				id, name, _ := strings.Cut(strings.TrimSuffix(line, "\n"), "|")
				n, _ := strconv.Atoi(id)
				rows[n] = name
			}
			return rows
		},
		Lose: func() {
			d.sql("flush binary logs")
			await(d.t, "old files are purged", func() bool { // one that is still sent to somebody stays
				d.sql("purge binary logs to '" + strings.Split(d.sql("show master status"), "|")[0] + "'")
				return !strings.Contains(d.sql("show binary logs"), "\n")
			})
		},
		Hold: func() func() {
			stop := d.Stall()
			isHeld = true
			return func() {
				stop()
				held.Wait()
				isHeld = false
			}
		},
		OldValues: image == "FULL",
	}
}

// Stall has commits wait, after they were written to the binary log, for a replica that never acknowledges, and returns when that is in force. Stop lets
// them go on.
func (d *db) Stall() (stop func()) {
	d.t.Helper()
	// A replica that asks for semi-synchronous replication, and says nothing more.
	s := d.source()
	s.also = ", @rpl_semi_sync_slave = 1"
	v, err := describe(context.Background(), d.conn.query)
	if err != nil {
		d.t.Fatal(err)
	}
	d.sql("set global rpl_semi_sync_master_enabled = 1")
	end := strings.Split(d.sql("show master status"), "|")
	off, _ := strconv.ParseUint(end[1], 10, 64)
	mute, err := s.openFeed(context.Background(), v, spot{end[0], off}, false)
	if err != nil {
		d.t.Fatal(err)
	}
	await(d.t, "a replica that must acknowledge", func() bool {
		return strings.HasSuffix(d.sql("show status like 'rpl_semi_sync_master_clients'"), "|1")
	})
	return sync.OnceFunc(func() {
		d.sql("set global rpl_semi_sync_master_enabled = 0")
		_ = mute.close()
		await(d.t, "the replica is gone", func() bool {
			return strings.HasSuffix(d.sql("show status like 'rpl_semi_sync_master_clients'"), "|0")
		})
	})
}
