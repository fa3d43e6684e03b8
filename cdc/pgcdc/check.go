package pgcdc

import (
	"context"
	"fmt"
	"strconv"
	"strings"

	"github.com/freshetdev/freshet/cdc"
)

// Check looks at everything that a stream needs, and at what may hurt later, and returns what is wrong with the statement that
// mends it. It changes nothing. An error means that it couldn't look. With Options.Create, what Open would make is no problem.
func (s *Source) Check(ctx context.Context) (problems []cdc.SourceProblem, err error) {
	d := newSide(s.main, s.opts.Timeout)
	defer d.close()
	add := func(text, fix string, warning bool) {
		problems = append(problems, cdc.SourceProblem{Text: text, Fix: fix, Warning: warning})
	}

	r, err := d.row(ctx, `
		select current_setting('server_version_num')::int, pg_is_in_recovery(), current_setting('wal_level'), current_user,
			(select rolreplication or rolsuper from pg_roles where rolname = current_user),
			exists (select from pg_roles where rolname = 'rds_replication'),
			exists (select from pg_roles where rolname = 'rds_replication' and pg_has_role(current_user, oid, 'member')),
			current_setting('max_replication_slots')::int - (select count(*) from pg_replication_slots where slot_name <> $1),
			current_setting('max_wal_senders')::int - (select count(*) from pg_stat_replication where application_name is distinct from current_setting('application_name')),
			current_setting('max_slot_wal_keep_size'), current_setting('synchronous_standby_names'), has_database_privilege(current_database(), 'create'),
			current_database(), current_setting('max_replication_slots'), current_setting('max_wal_senders')`, s.opts.Slot)
	if err != nil {
		return nil, fmt.Errorf("pgcdc: check: %w", err)
	}
	var version, slots, senders int
	if _, err := fmt.Sscan(r[0]+" "+r[7]+" "+r[8], &version, &slots, &senders); err != nil {
		return nil, fmt.Errorf("pgcdc: check: the server says %q: %w", r, err)
	}
	if version < 130000 {
		add("PostgreSQL is version "+r[0]+"; want 13 or later", "", false)
		return problems, nil
	}
	if version < 140000 {
		add("PostgreSQL 13 doesn't send what pg_logical_emit_message writes, so programs can't add drops of their own", "use 14 or later", true)
	}
	if r[1] == "t" {
		add("the server is a standby; want the primary", "", false)
	}
	if r[2] != "logical" {
		add("wal_level is "+r[2]+"; want logical", "ALTER SYSTEM SET wal_level = 'logical'; and restart the server", false)
	}
	switch role := quote(r[3]); {
	case r[4] == "t" || r[6] == "t":
	case r[5] == "t":
		add("role "+r[3]+" may not replicate", "GRANT rds_replication TO "+role+";", false)
	default:
		add("role "+r[3]+" may not replicate", "ALTER ROLE "+role+" REPLICATION;", false)
	}
	if slots <= 0 {
		add("all "+r[13]+" replication slots are taken (max_replication_slots)", "ALTER SYSTEM SET max_replication_slots = "+more(r[13])+"; and restart the server", false)
	}
	if senders <= 0 {
		add("all "+r[14]+" senders are taken (max_wal_senders)", "ALTER SYSTEM SET max_wal_senders = "+more(r[14])+"; and restart the server", false)
	}
	if r[9] == "-1" {
		add("nothing bounds the log that the slot keeps while no pump runs (max_slot_wal_keep_size)",
			"ALTER SYSTEM SET max_slot_wal_keep_size = '8GB'; SELECT pg_reload_conf();", true)
	}
	if strings.Contains(r[10], "*") {
		add("synchronous_standby_names is "+r[10]+", which takes the pump for a standby: commits would wait for it",
			"name the standbys instead of *", false)
	}

	k, err := s.readSlot(ctx, d.query, version)
	if err != nil {
		return nil, err
	}
	drop := "SELECT pg_drop_replication_slot(" + literal(s.opts.Slot) + ");"
	create := "SELECT pg_create_logical_replication_slot(" + literal(s.opts.Slot) + ", 'pgoutput');"
	switch {
	case !k.exists && !s.opts.Create:
		add("there is no replication slot "+s.opts.Slot, create, false)
	case k.exists && k.wrong() != "":
		add("slot "+s.opts.Slot+" "+k.wrong(), drop+" "+create, false)
	case k.exists && k.status == "lost" && !s.opts.Create:
		add("slot "+s.opts.Slot+" was invalidated", drop+" "+create, false)
	}
	if s.tooLong(k) {
		add(fmt.Sprintf("slot %s keeps %d bytes of log; want at most %d", s.opts.Slot, k.retained, s.opts.MaxSlotLag), "start a pump, or "+drop, true)
	}
	if rows, err := d.query(ctx, `select gid, prepared from pg_prepared_xacts order by 2`); err != nil {
		return nil, fmt.Errorf("pgcdc: check: %w", err)
	} else {
		for _, r := range rows {
			add("transaction "+r[0]+" is prepared since "+r[1]+": a new slot, or one after a gap, waits for its end",
				"COMMIT PREPARED "+literal(r[0])+"; or ROLLBACK PREPARED "+literal(r[0])+";", true)
		}
	}

	c, err := s.readCatalog(ctx, d, s.opts.Match)
	if err != nil {
		return nil, err
	}
	for _, t := range c.tables {
		problems = append(problems, t.hindrances()...)
	}
	lacks, missing := c.shortcomings(s.opts.Publication)
	if !s.opts.Create {
		return append(problems, lacks...), nil
	}
	// What Open would do must be allowed.
	if len(lacks) > 0 && r[11] != "t" {
		add("role "+r[3]+" may not create a publication in the database", "GRANT CREATE ON DATABASE "+quote(r[12])+" TO "+quote(r[3])+";", false)
	}
	for _, t := range missing {
		own, err := d.row(ctx, `select pg_has_role(current_user, relowner, 'usage'), pg_get_userbyid(relowner) from pg_class where oid = $1::oid`, t.oid)
		if err != nil {
			return nil, fmt.Errorf("pgcdc: check: %w", err)
		}
		if own[0] != "t" {
			problems = append(problems, cdc.SourceProblem{
				Table: t.String(), Text: "role " + r[3] + " doesn't own it, so it can't add it to the publication",
				Fix: "as " + own[1] + ": " + lacks[0].Fix + " or GRANT " + quote(own[1]) + " TO " + quote(r[3]) + ";",
			})
		}
	}
	return problems, nil
}

// more is a number and one.
func more(n string) string {
	i, _ := strconv.Atoi(n)
	return strconv.Itoa(i + 1)
}
