package cli

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/freshetdev/freshet/cdc"
	"github.com/freshetdev/freshet/cmd/freshet/internal/accesslog"
	"github.com/freshetdev/freshet/observe/promobserve"
)

// serveAdmin answers questions about the pumps by HTTP, if there is an address. stop ends it.
//
//	/healthz           200 if every pump stands by, or runs and is certified, else 503; JSON: the state of each
//	/metrics           counts and times, for Prometheus
//	/explain?name=KEY  the last change for which a key or tag was dropped; 404 if none is remembered
func (w *watch) serveAdmin(pumps []*pumped, logs *accesslog.Log) (stop func(), err error) {
	if w.admin == "" {
		return func() {}, nil
	}
	scrapes, err := metrics(pumps)
	if err != nil {
		return nil, err
	}
	l, err := listen("admin", w.admin)
	if err != nil {
		return nil, err
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", func(rw http.ResponseWriter, _ *http.Request) { health(rw, pumps) })
	mux.Handle("GET /metrics", scrapes)
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

// uncertified is what /healthz says of a pump that runs, and gets nowhere: what is committed now isn't dropped. Redis is away, or the
// database shows a commit to nobody.
const uncertified cdc.PumpState = "uncertified"

func health(rw http.ResponseWriter, pumps []*pumped) {
	status := http.StatusOK
	states := map[string]cdc.PumpState{}
	for _, p := range pumps {
		s := p.pump.Stats()
		states[p.Name] = healthOf(s, p.log.stateSince(), p.pump.Options().Tick, time.Now())
		if s := states[p.Name]; s != cdc.Running && s != cdc.Standby {
			status = http.StatusServiceUnavailable
		}
	}
	writeJSON(rw, status, map[string]any{"sources": states})
}

// healthOf is the state of a pump that has been in it since a time.
func healthOf(s cdc.Stats, since time.Time, tick time.Duration, now time.Time) cdc.PumpState {
	if since.Before(s.LastTick) {
		since = s.LastTick
	}
	if s.State == cdc.Running && now.Sub(since) > max(leastSilence, 100*tick) {
		return uncertified
	}
	return s.State
}

// leastSilence is how old a certificate may be, or 100 ticks if that is longer: a Redis that restarts or fails over is no alarm.
const leastSilence = 10 * time.Second

// metrics answers scrapes: what pumps and databases count, and nothing of this process, which others measure better.
func metrics(pumps []*pumped) (http.Handler, error) {
	all := prometheus.NewRegistry()
	for _, p := range pumps {
		for _, c := range append(p.db.metrics(p.Name), promobserve.NewPump(p.Name, p.pump.Stats)) {
			if err := all.Register(c); err != nil {
				return nil, fmt.Errorf("metrics of %s: %w", p.Name, err)
			}
		}
	}
	return promhttp.HandlerFor(all, promhttp.HandlerOpts{}), nil
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
	answerExplain(rw, name, last)
}

func answerExplain(rw http.ResponseWriter, name string, last *cdc.Touch) {
	out := explained{Name: name, Source: last.Source, Table: last.Table, Why: string(last.Why), Transaction: last.Tx.ID, Position: strings.TrimSpace(string(last.Tx.Pos)), Applied: last.At}
	if last.Op != 0 {
		out.Op = last.Op.String()
	}
	if !last.Tx.Committed.IsZero() {
		out.Committed = &last.Tx.Committed
	}
	if last.Rule >= 0 {
		out.Rule = last.Rule + 1
	}
	writeJSON(rw, http.StatusOK, out)
}

// An explained is what /explain answers.
type explained struct {
	Name        string     `json:"name"`
	Source      string     `json:"source"`
	Table       string     `json:"table,omitempty"`
	Op          string     `json:"op,omitempty"`
	Rule        int        `json:"rule,omitempty"` // from 1
	Why         string     `json:"why,omitempty"`  // cdc.Why
	Transaction string     `json:"transaction,omitempty"`
	Position    string     `json:"position,omitempty"`
	Committed   *time.Time `json:"committed,omitempty"`
	Applied     time.Time  `json:"applied"`
}
