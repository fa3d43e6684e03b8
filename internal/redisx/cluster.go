package redisx

import (
	"cmp"
	"net"
	"strconv"
	"strings"

	"github.com/redis/rueidis"
)

// A View is what one node says of the Cluster.
type View struct {
	Epoch  int64
	Addrs  [Slots]string // empty: not served
	Served int           // slots
}

// ReadView reads the answers to CLUSTER SLOTS and INFO.
func ReadView(asked string, ranges, info rueidis.RedisResult) (v View, err error) {
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
