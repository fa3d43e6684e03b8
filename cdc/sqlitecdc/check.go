package sqlitecdc

import (
	"context"
	"database/sql"
	"fmt"
	"strconv"
	"strings"

	"github.com/freshetdev/freshet/cdc"
)

// Check looks at what a stream needs, and at what it would not notice, and returns what is wrong with what mends it. It changes nothing. An error means that it couldn't
// look. What Open makes is no problem.
func (s *Source) Check(ctx context.Context) (problems []cdc.SourceProblem, err error) {
	err = s.briefly(ctx, func(c *sql.Conn) error {
		return inTx(ctx, c, `BEGIN`, func() (err error) {
			problems, err = s.check(ctx, c)
			return err
		})
	})
	if err != nil {
		return nil, fmt.Errorf("sqlitecdc: check: %w", err)
	}
	return problems, nil
}

func (s *Source) check(ctx context.Context, c *sql.Conn) (problems []cdc.SourceProblem, err error) {
	rows, err := query(ctx, c, `SELECT sqlite_version(), (SELECT journal_mode FROM pragma_journal_mode)`)
	if err != nil {
		return nil, err
	}
	if version := rows[0][0]; older(version, 3, 26) {
		problems = append(problems, cdc.SourceProblem{Text: "SQLite is version " + version + "; want 3.26 or later", Fix: "another version of the driver " + s.driver})
		return problems, nil
	}
	if mode := rows[0][1]; !strings.EqualFold(mode, "wal") {
		problems = append(problems, cdc.SourceProblem{
			Text: "the journal mode is " + mode + ", in which who reads and who writes wait for each other", Fix: "PRAGMA journal_mode = WAL;", Warning: true,
		})
	}
	tables, others, err := readTables(ctx, c, s.opts.Match)
	if err != nil {
		return nil, err
	}
	for _, o := range others {
		problems = append(problems, cdc.SourceProblem{Table: "main." + o.name, Text: "it is " + o.kind + ", which has no triggers: its changes aren't followed", Fix: "name the tables behind it in rules", Warning: true})
	}
	for _, t := range tables {
		for _, i := range t.unseen {
			problems = append(problems, cdc.SourceProblem{
				Table: t.String(), Text: "the unique index " + i + " has a WHERE or an expression: rows that REPLACE deletes for its sake aren't noticed",
				Fix: "don't use REPLACE on it, or set PRAGMA recursive_triggers = ON in the programs that do", Warning: true,
			})
		}
	}
	return problems, nil
}

// older compares "3.40.1" with a version.
func older(version string, major, minor int) bool {
	a, rest, _ := strings.Cut(version, ".")
	b, _, _ := strings.Cut(rest, ".")
	have, err1 := strconv.Atoi(a)
	and, err2 := strconv.Atoi(b)
	return err1 != nil || err2 != nil || have < major || have == major && and < minor
}
