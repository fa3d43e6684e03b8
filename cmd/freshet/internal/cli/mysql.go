package cli

import (
	"context"
	"fmt"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/freshetdev/freshet/cdc"
	"github.com/freshetdev/freshet/cdc/mysqlcdc"
	"github.com/freshetdev/freshet/cmd/freshet/internal/accesslog"
	"github.com/freshetdev/freshet/cmd/freshet/internal/config"
)

// A mysqlDB is a MariaDB or MySQL server.
type mysqlDB struct{ src *mysqlcdc.Source }

func openMySQL(s config.Source, rules *cdc.Rules) (database, error) {
	src, err := mysqlcdc.New(s.URL.Reveal(), mysqlcdc.Options{Match: rules.Match, Timeout: s.MySQL.Timeout})
	if err != nil {
		return nil, err
	}
	return &mysqlDB{src}, nil
}

func (d *mysqlDB) source() cdc.Source { return d.src }

func (d *mysqlDB) check(ctx context.Context) ([]cdc.SourceProblem, error) { return d.src.Check(ctx) }

func (d *mysqlDB) tables(ctx context.Context, match func(schema, name string) bool) ([]*cdc.Table, error) {
	tables, err := d.src.Tables(ctx, match)
	if tables != nil {
		err = nil // it is of other tables, and check says the same
	}
	return tables, err
}

func (d *mysqlDB) metrics(string) []prometheus.Collector { return nil } // its log isn't kept for a reader

func (d *mysqlDB) hung() string { return "SHOW PROCESSLIST for threads that wait for a semi-sync ACK" }

func (d *mysqlDB) health(ctx context.Context, from cdc.Position) ([]finding, error) {
	log, err := d.src.Log(ctx, from)
	if err != nil {
		return nil, err
	}
	return logFindings(log), nil
}

// shortLog is less than what a pump may be away for: a night, with nobody who looks.
const shortLog = 24 * time.Hour

// logFindings says how the binary log is, and whether a pump can go on in it.
func logFindings(log mysqlcdc.LogState) (all []finding) {
	has := fmt.Sprintf("the binary log has %s, %s", count(log.Files, "file"), accesslog.Bytes(log.Size))
	keep := "SET GLOBAL binlog_expire_logs_seconds = 604800; and the same in the server's configuration"
	switch {
	case log.Gap != nil:
		all = append(all, bad(fmt.Sprintf("no pump can go on where the last one was: %v", log.Gap),
			"changes were lost, so the next pump to start drops everything once, or ends if on_gap is stop",
			"start freshet watch; so that it doesn't happen again, keep the log for longer than the pump may be stopped, and don't let RESET MASTER be run"))
	case log.File != "" && log.File == log.Oldest && log.Files > 1 && log.Expires > 0:
		all = append(all, warning(fmt.Sprintf("%s of the binary log is not applied, and begins in its oldest file, %s", accesslog.Bytes(log.Unread), log.File),
			"the server throws that file away next, unless a pump reads it; then changes are lost, and everything is dropped once",
			"start freshet watch, or look at its log if it runs; more time: "+keep))
	case log.File != "":
		all = append(all, fine(fmt.Sprintf("%s; %s of it is not applied", has, accesslog.Bytes(log.Unread))))
	default:
		all = append(all, fine(has))
	}
	if log.Expires > 0 && log.Expires < shortLog {
		all = append(all, warning("the server throws its binary log away after "+readable(log.Expires),
			"a pump that was stopped for longer finds changes lost, and drops everything once", keep))
	}
	return all
}
