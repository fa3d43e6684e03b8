package cli

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/freshetdev/freshet/cdc"
	"github.com/freshetdev/freshet/cmd/freshet/internal/accesslog"
)

// serveAdmin answers questions about the pumps by HTTP, if there is an address. stop ends it.
//
//	/healthz           200 if every pump runs or stands by, else 503; JSON: the state of each
//	/metrics           counts, in the text format of Prometheus
//	/explain?name=KEY  the last change for which a key or tag was dropped; 404 if none is remembered
func (w *watch) serveAdmin(pumps []*pumped, logs *accesslog.Log) (stop func(), err error) {
	if w.admin == "" {
		return func() {}, nil
	}
	l, err := net.Listen("tcp", w.admin)
	if err != nil {
		return nil, fmt.Errorf("--admin %s: %w", w.admin, err)
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", func(rw http.ResponseWriter, _ *http.Request) { health(rw, pumps) })
	mux.HandleFunc("GET /metrics", func(rw http.ResponseWriter, _ *http.Request) {
		rw.Header().Set("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
		metrics(rw, pumps)
	})
	mux.HandleFunc("GET /explain", func(rw http.ResponseWriter, r *http.Request) { explain(rw, r.URL.Query().Get("name"), pumps) })
	server := &http.Server{Handler: mux, ReadHeaderTimeout: 5 * time.Second, WriteTimeout: 10 * time.Second, IdleTimeout: time.Minute}
	var wg sync.WaitGroup
	wg.Go(func() { _ = server.Serve(l) }) // ends with Shutdown
	logs.Info("answering questions", "admin", publicURL(l.Addr()))
	return func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		if server.Shutdown(ctx) != nil {
			_ = server.Close()
		}
		wg.Wait()
	}, nil
}

func writeJSON(rw http.ResponseWriter, status int, v any) {
	rw.Header().Set("Content-Type", "application/json")
	rw.Header().Set("Cache-Control", "no-store")
	rw.WriteHeader(status)
	enc := json.NewEncoder(rw)
	enc.SetEscapeHTML(false)
	_ = enc.Encode(v) // who asked went away
}

func health(rw http.ResponseWriter, pumps []*pumped) {
	status := http.StatusOK
	states := map[string]cdc.PumpState{}
	for _, p := range pumps {
		s := p.pump.Stats().State
		states[p.Name] = s
		if s != cdc.Running && s != cdc.Standby {
			status = http.StatusServiceUnavailable
		}
	}
	writeJSON(rw, status, map[string]any{"sources": states})
}

func metrics(w io.Writer, pumps []*pumped) {
	stats := make([]cdc.Stats, len(pumps))
	for i, p := range pumps {
		stats[i] = p.pump.Stats()
	}
	one := func(name, kind, help string, value func(s cdc.Stats) float64) {
		fmt.Fprintf(w, "# HELP freshet_cdc_%s %s\n# TYPE freshet_cdc_%s %s\n", name, help, name, kind)
		for i, p := range pumps {
			fmt.Fprintf(w, "freshet_cdc_%s{source=%q} %g\n", name, p.Name, value(stats[i]))
		}
	}
	one("running", "gauge", "1 if this pump works, 0 if it stands by or can't.", func(s cdc.Stats) float64 {
		if s.State == cdc.Running {
			return 1
		}
		return 0
	})
	one("transactions_total", "counter", "Transactions applied.", func(s cdc.Stats) float64 { return float64(s.Txs) })
	one("changes_total", "counter", "Changes applied.", func(s cdc.Stats) float64 { return float64(s.Changes) })
	one("tags_total", "counter", "Tags dropped.", func(s cdc.Stats) float64 { return float64(s.Tags) })
	one("keys_total", "counter", "Keys deleted.", func(s cdc.Stats) float64 { return float64(s.Keys) })
	one("messages_total", "counter", "Messages published.", func(s cdc.Stats) float64 { return float64(s.Published) })
	one("gaps_total", "counter", "Gaps: everything was dropped.", func(s cdc.Stats) float64 { return float64(s.Gaps) })
	one("errors_total", "counter", "Errors after which it was tried again.", func(s cdc.Stats) float64 { return float64(s.Errors) })
	one("pending", "gauge", "Names read and not applied yet.", func(s cdc.Stats) float64 { return float64(s.Pending) })
	one("behind_seconds", "gauge", "All changes that were visible so long ago are applied; -1: that isn't known.", func(s cdc.Stats) float64 {
		if s.Behind < 0 {
			return -1
		}
		return s.Behind.Seconds()
	})
	const name = "freshet_cdc_lag_seconds"
	fmt.Fprintf(w, "# HELP %s From commit to applied.\n# TYPE %s histogram\n", name, name)
	for i, p := range pumps {
		h, sum := stats[i].Lag, uint64(0)
		for b, n := range h.Buckets[:len(h.Buckets)-1] {
			sum += n
			fmt.Fprintf(w, "%s_bucket{source=%q,le=\"%g\"} %d\n", name, p.Name, h.Bound(b).Seconds(), sum)
		}
		fmt.Fprintf(w, "%s_bucket{source=%q,le=\"+Inf\"} %d\n%s_sum{source=%q} %g\n%s_count{source=%q} %d\n", name, p.Name, h.Count, name, p.Name, h.Sum.Seconds(), name, p.Name, h.Count)
	}
}

// explain tells of the last change for which a name was dropped.
func explain(rw http.ResponseWriter, name string, pumps []*pumped) {
	if name == "" {
		writeJSON(rw, http.StatusBadRequest, map[string]string{"error": "no name; want /explain?name=user:1:profile, a key or a tag"})
		return
	}
	var last *cdc.Touch
	for _, p := range pumps {
		if t, ok := p.pump.LastChange(name); ok && (last == nil || t.At.After(last.At)) {
			last = &t
		}
	}
	if last == nil {
		writeJSON(rw, http.StatusNotFound, map[string]string{"name": name, "error": "none of the last 4,096 names that were dropped here"})
		return
	}
	out := map[string]any{"name": name, "source": last.Source, "applied": last.At.Format(time.RFC3339Nano)}
	add := func(key, value string) {
		if value != "" {
			out[key] = value
		}
	}
	add("table", last.Table)
	if last.Op != 0 {
		add("op", last.Op.String())
	}
	add("why", string(last.Why))
	add("transaction", last.Tx.ID)
	add("position", strings.TrimSpace(string(last.Tx.Pos)))
	if !last.Tx.Committed.IsZero() {
		add("committed", last.Tx.Committed.Format(time.RFC3339Nano))
	}
	if last.Rule >= 0 {
		out["rule"] = last.Rule + 1
	}
	writeJSON(rw, http.StatusOK, out)
}
