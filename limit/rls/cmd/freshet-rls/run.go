package main

import (
	"context"
	"crypto/tls"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"

	"github.com/freshetdev/freshet/limit"
	"github.com/freshetdev/freshet/limit/memlimit"
	"github.com/freshetdev/freshet/limit/redislimit"
	"github.com/freshetdev/freshet/limit/rls"
)

var errUsage = errors.New("wrong usage")

// settings are the flags.
type settings struct {
	paths    []string // the arguments
	listen   string
	store    string
	prefix   string
	timeout  time.Duration
	every    time.Duration
	shadow   bool
	cert     string
	key      string
	headers  string
	rls      rls.Options
	memKeys  int
	jsonLogs bool
}

var headers = map[string]rls.Headers{"none": rls.HeadersNone, "draft": rls.HeadersDraft, "legacy": rls.HeadersLegacy}

// parse reads the flags, and says on stderr what is wrong with them.
func parse(args []string, stderr io.Writer) (s settings, err error) {
	f := flag.NewFlagSet("freshet-rls", flag.ContinueOnError)
	f.SetOutput(stderr)
	f.Usage = func() {
		fmt.Fprint(stderr, "usage: freshet-rls [flags] CONFIG...\n\nServes Envoy's Rate Limit Service, version 3. CONFIG are files, or folders of files *.yaml and *.yml.\n\n")
		f.PrintDefaults()
	}
	f.StringVar(&s.listen, "listen", "127.0.0.1:8081", "address for gRPC")
	f.StringVar(&s.store, "store", "memory://", "where limits are counted: memory:// for this process alone, or redis://, rediss://, redis+sentinel://, redis+cluster://")
	f.StringVar(&s.prefix, "prefix", "", "stands before all keys in Redis")
	f.DurationVar(&s.timeout, "timeout", 15*time.Millisecond, "longest wait for the store; Envoy's own timeout, 20ms by default, should be longer")
	f.DurationVar(&s.every, "reload", 5*time.Second, "how often to look for changes of CONFIG; 0 for never")
	f.BoolVar(&s.shadow, "shadow", false, "all limits decide and count, and refuse nothing")
	f.StringVar(&s.cert, "tls-cert", "", "file of the certificate (PEM); with -tls-key")
	f.StringVar(&s.key, "tls-key", "", "file of its key")
	f.StringVar(&s.headers, "headers", "none", "headers for clients: none, draft or legacy")
	f.BoolVar(&s.rls.ProblemBody, "problem-body", false, "refusals have a body, application/problem+json")
	f.BoolVar(&s.rls.Metadata, "metadata", false, "answers have dynamic metadata")
	f.DurationVar(&s.rls.Drain, "drain", 10*time.Second, "longest wait for calls under way at the end")
	f.IntVar(&s.memKeys, "memory-keys", 1<<20, "largest number of keys that are counted in this process")
	f.BoolVar(&s.jsonLogs, "json", false, "log lines are JSON")
	if err := f.Parse(args); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			return s, err
		}
		return s, errUsage
	}
	s.paths = f.Args()
	known := false
	s.rls.Headers, known = headers[s.headers]
	wrong := ""
	switch {
	case len(s.paths) == 0:
		wrong = "CONFIG is missing; want a file or a folder"
	case !known:
		wrong = fmt.Sprintf("-headers is %q; want none, draft or legacy", s.headers)
	case s.timeout <= 0:
		wrong = fmt.Sprintf("-timeout is %v; want more than zero", s.timeout)
	case s.every < 0:
		wrong = fmt.Sprintf("-reload is %v; want zero or more", s.every)
	case s.rls.Drain <= 0:
		wrong = fmt.Sprintf("-drain is %v; want more than zero", s.rls.Drain)
	case s.memKeys < 1:
		wrong = fmt.Sprintf("-memory-keys is %d; want 1 or more", s.memKeys)
	case (s.cert == "") != (s.key == ""):
		wrong = "one of -tls-cert and -tls-key is given; want both or none"
	}
	if wrong != "" {
		fmt.Fprintf(stderr, "freshet-rls: %s; see freshet-rls -help\n", wrong)
		return s, errUsage
	}
	return s, nil
}

// run serves until ctx ends.
func run(ctx context.Context, args []string, stderr io.Writer) error {
	s, err := parse(args, stderr)
	if err != nil {
		return err
	}
	var handler slog.Handler = slog.NewTextHandler(stderr, nil)
	if s.jsonLogs {
		handler = slog.NewJSONHandler(stderr, nil)
	}
	log := slog.New(handler)

	config, err := rls.ReadConfig(s.paths...)
	if err != nil {
		return err
	}
	var opts []grpc.ServerOption
	if s.cert != "" {
		cert, err := tls.LoadX509KeyPair(s.cert, s.key)
		if err != nil {
			return err
		}
		opts = append(opts, grpc.Creds(credentials.NewServerTLSFromCert(&cert)))
	}
	limiter, local, err := s.limiter(log)
	if err != nil {
		return err
	}
	defer local.Close()
	defer limiter.Close()
	server, err := rls.NewServer(limiter, config, s.rls)
	if err != nil {
		return err
	}
	lis, err := net.Listen("tcp", s.listen)
	if err != nil {
		return err
	}
	log.Info("serving", "address", lis.Addr().String(), "domains", len(config.Domains))

	followed := make(chan struct{})
	following, stop := context.WithCancel(ctx)
	go func() {
		defer close(followed)
		if s.every > 0 {
			_ = server.Follow(following, s.every, func(err error) { // it fails only if every is wrong
				if err != nil {
					log.Error("the config is wrong, the last good one stays", "error", err)
				} else {
					log.Info("config set")
				}
			}, s.paths...)
		}
	}()
	err = server.Serve(ctx, lis, opts...)
	stop()
	<-followed
	log.Info("stopped")
	return err
}

// limiter opens the store. local counts in this process, and decides in an outage for limits with on_outage local.
func (s *settings) limiter(log *slog.Logger) (_ *limit.Limiter, local limit.Store, err error) {
	local = memlimit.New(memlimit.Options{MaxKeys: s.memKeys})
	opts := limit.Options{Timeout: s.timeout, Local: local, Shadow: s.shadow, Hooks: limit.Hooks{
		Breaker: func(b limit.Breaker) {
			if b.Open {
				log.Error("the store fails, and isn't asked for a while", "error", b.Cause)
			} else {
				log.Info("the store answers again")
			}
		},
	}}
	var store limit.Store
	if strings.HasPrefix(s.store, "memory:") {
		if s.store != "memory://" {
			return nil, nil, fmt.Errorf("-store is %q; memory:// has no host and no options", s.store)
		}
		store = memlimit.New(memlimit.Options{MaxKeys: s.memKeys})
	} else if store, err = redislimit.Open(s.store, redislimit.Options{Prefix: s.prefix}); err != nil {
		return nil, nil, err
	}
	l, err := limit.New(store, opts)
	if err != nil {
		return nil, nil, errors.Join(err, store.Close())
	}
	return l, local, nil
}
