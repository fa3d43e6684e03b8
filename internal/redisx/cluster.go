package redisx

import (
	"cmp"
	"fmt"
	"math/rand/v2"
	"net"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/redis/rueidis"
)

// A View is what one node says of the Cluster.
type View struct {
	Epoch  int64
	Addrs  [Slots]string // empty: not served
	Served int           // slots
}

// So many nodes are asked at a time: one that was cut off may tell of yesterday.
const viewsAsked = 3

// LatestView asks some nodes at a time, those in first before the others, and returns the latest view of the first in which slots are
// served. If there is none, it returns the errors of nodes that didn't tell, if any. Both lists are its to change.
func LatestView(first, others []string, ask func(addr string, cmds ...[]string) ([]rueidis.RedisResult, error)) (View, error) {
	rand.Shuffle(len(others), func(i, j int) { others[i], others[j] = others[j], others[i] })
	for _, a := range others {
		if !slices.Contains(first, a) {
			first = append(first, a)
		}
	}
	var errs []error
	for some := range slices.Chunk(first, viewsAsked) {
		views, failed := make([]View, len(some)), make([]error, len(some))
		var wg sync.WaitGroup
		for i, a := range some {
			wg.Go(func() {
				var v View
				res, err := ask(a, []string{"CLUSTER", "SLOTS"}, []string{"CLUSTER", "INFO"})
				if err == nil {
					v, err = readView(a, res[0], res[1])
				}
				if err == nil {
					views[i] = v
				} else {
					failed[i] = fmt.Errorf("view of %s: %w", a, err)
				}
			})
		}
		wg.Wait()
		errs = append(errs, failed...)
		best := slices.MaxFunc(views, func(a, b View) int {
			return cmp.Or(cmp.Compare(a.Epoch, b.Epoch), cmp.Compare(a.Served, b.Served))
		})
		if best.Served > 0 {
			return best, nil
		}
	}
	return View{}, Join(errs)
}

// readView reads the answers to CLUSTER SLOTS and INFO.
func readView(asked string, ranges, info rueidis.RedisResult) (v View, err error) {
	text, err := info.ToString()
	if err != nil {
		return v, err
	}
	for line := range strings.Lines(text) {
		if n, ok := strings.CutPrefix(line, "cluster_current_epoch:"); ok {
			v.Epoch, _ = strconv.ParseInt(strings.TrimSpace(n), 10, 64)
		}
	}
	rs, err := ranges.ToArray()
	if err != nil {
		return v, err
	}
	for i := range rs {
		r, err := rs[i].ToArray()
		if err != nil || len(r) < 3 {
			return v, ErrStrange
		}
		first, err1 := r[0].AsInt64()
		last, err2 := r[1].AsInt64()
		at, err3 := r[2].ToArray()
		if cmp.Or(err1, err2, err3) != nil || len(at) < 2 || first < 0 || last >= Slots {
			return v, ErrStrange
		}
		host, _ := at[0].ToString() // null: the one that was asked
		port, err := at[1].AsInt64()
		if err != nil {
			return v, ErrStrange
		}
		if host == "?" {
			continue // it has no name yet
		}
		addr := hostOr(net.JoinHostPort(host, strconv.FormatInt(port, 10)), asked)
		for s := first; s <= last; s++ {
			v.Addrs[s] = addr
			v.Served++
		}
	}
	return v, nil
}

// hostOr is addr, with the host of known if it has none.
func hostOr(addr, known string) string {
	if port, ok := strings.CutPrefix(addr, ":"); ok {
		host, _, _ := net.SplitHostPort(known)
		return net.JoinHostPort(host, port)
	}
	return addr
}

// Redirect reads an answer that sends the caller elsewhere.
func Redirect(res rueidis.RedisResult, asked string) (addr string, asking, again bool) {
	e, ok := rueidis.IsRedisErr(res.Error())
	if !ok {
		return "", false, false
	}
	if addr, ok := e.IsMoved(); ok {
		return hostOr(addr, asked), false, false
	}
	if addr, ok := e.IsAsk(); ok {
		return hostOr(addr, asked), true, false
	}
	return "", false, e.IsTryAgain()
}
