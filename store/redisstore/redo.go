package redisstore

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/redis/rueidis"

	"github.com/freshetdev/freshet/internal/redisx"
)

// redoSpan is how far back drops of keys are repeated. A replica that lags by more isn't
// made a primary by itself (cluster-replica-validity-factor).
const redoSpan = 3 * time.Minute

// redo deletes the keys of the latest drops once more, before a link to a node of a Cluster is used.
//
// A primary may be a replica that was promoted, and lack deletions that the old one had
// acknowledged. On a single server the log then lacks the drop too, and shows it. In a Cluster the
// log may lie on another node, and be whole:
//
//	B: drop(k): deletes k on node 1, appends to the log on node 2
//	node 1 dies before its replica hears of the deletion: k is back
//
// So whoever links to a node first brings it up to the logs: once for each history of the node, since a server that
// is neither restarted nor promoted has lost nothing. It is done in pieces, each of which has the time of a step.
func (n *node) redo(ctx context.Context, l *link, now time.Time) error {
	if l.server != "" && l.server == n.redone {
		return nil
	}
	s := n.s
	t := s.many.table.Load()
	logs := make(map[*node][]*logPart)
	for i, p := range s.parts {
		at := t.at[redisx.SlotOf(p.log)]
		if at == nil {
			return fmt.Errorf("no node has log %d", i)
		}
		logs[at] = append(logs[at], &logPart{part: i, from: uint64(now.Add(-redoSpan).UnixMicro())})
	}
	// One that serves nothing yet, as far as is known here, may be a replica that was promoted a moment ago.
	serves := slices.Contains(t.at[:], n)
	var names []string
	for at, parts := range logs {
		for len(parts) > 0 {
			keys, err := n.readLogs(ctx, l, at, parts)
			if err != nil {
				return err
			}
			for _, k := range keys {
				if !serves || t.at[redisx.SlotOf(s.opts.Prefix+k)] == n {
					names = append(names, s.names(k)...)
				}
			}
			parts = slices.DeleteFunc(parts, func(p *logPart) bool { return p.read })
		}
	}
	slices.Sort(names)
	for some := range slices.Chunk(slices.Compact(names), perCommand) {
		cmds := make([]rueidis.Completed, len(some))
		for i, name := range some {
			cmds[i] = s.build.Unlink().Key(name).Build()
		}
		for _, res := range l.do(ctx, cmds...) {
			if err := res.Error(); err != nil {
				if addr, _, again := redisx.Redirect(res, n.addr); addr != "" || again {
					continue // it lies elsewhere by now, or is on its way
				}
				return fmt.Errorf("redo drops: %w", err)
			}
		}
	}
	n.redone = l.server
	return nil
}

// A logPart is a log of which the end is read, piece by piece.
type logPart struct {
	part int
	from uint64
	read bool // to its end
}

// redoChunk is how many entries of a log are read at a time.
const redoChunk = 500

// readLogs reads the next piece of each of several logs on a node, and returns the keys dropped there.
func (n *node) readLogs(ctx context.Context, l *link, at *node, parts []*logPart) (keys []string, err error) {
	s := n.s
	cmds := make([][]string, len(parts))
	for i, p := range parts {
		cmds[i] = []string{"XRANGE", s.parts[p.part].log, strconv.FormatUint(p.from, 10), "+", "COUNT", strconv.Itoa(redoChunk)}
	}
	var res []rueidis.RedisResult
	if at == n {
		multi := make([]rueidis.Completed, len(cmds))
		for i, args := range cmds {
			multi[i] = s.build.Arbitrary(args...).Build()
		}
		res = l.do(ctx, multi...)
	} else if res, err = s.many.send(ctx, l.patience, at.addr, cmds...); err != nil {
		return nil, fmt.Errorf("logs on %s: %w", at.addr, err)
	}
	for i, p := range parts {
		items, err := res[i].AsXRange()
		if err != nil {
			if wrongType(err) || rueidis.IsRedisNil(err) {
				p.read = true
				continue // no log
			}
			return nil, fmt.Errorf("log %d on %s: %w", p.part, at.addr, err)
		}
		p.read = len(items) < redoChunk
		for _, it := range items {
			id, _, _ := strings.Cut(it.ID, "-")
			if pos, err := strconv.ParseUint(id, 10, 64); err == nil {
				p.from = pos + 1
			}
			e, err := decodeMessage(it.FieldValues["m"])
			if err != nil {
				continue // the mirror sees it, too
			}
			keys = append(keys, e.Keys...)
		}
	}
	return keys, nil
}

// checkCount compares the number of partitions with that of the other clients, before a link
// is used: with another number they would look for drops elsewhere.
func (n *node) checkCount(ctx context.Context, l *link) error {
	s := n.s
	key, want := s.countKey(), strconv.Itoa(len(s.parts))
	at := s.many.table.Load().at[redisx.SlotOf(key)]
	var res []rueidis.RedisResult
	var err error
	switch at {
	case nil:
		err = errors.New("no node has it")
	case n:
		res = l.do(ctx, s.build.Setnx().Key(key).Value(want).Build(), s.build.Get().Key(key).Build())
		err = res[0].Error()
	default:
		if res, err = s.many.send(ctx, l.patience, at.addr, []string{"SETNX", key, want}, []string{"GET", key}); err == nil {
			err = res[0].Error()
		}
	}
	if err != nil {
		return fmt.Errorf("number of partitions: %w", err)
	}
	return s.checkAnswer(res[1])
}

func (s *Store) checkAnswer(res rueidis.RedisResult) error {
	got, err := res.ToString()
	if err != nil {
		return fmt.Errorf("number of partitions: %w", err)
	}
	if want := strconv.Itoa(len(s.parts)); got != want {
		return fmt.Errorf("the logs have %q partitions, as %s says; want %s, as this client is set", got, s.countKey(), want)
	}
	return nil
}

// countKey holds the number of partitions.
func (s *Store) countKey() string { return s.opts.Prefix + "{freshet:0}:partitions" }
