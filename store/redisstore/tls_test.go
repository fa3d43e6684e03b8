package redisstore

import (
	"strings"
	"testing"
	"time"

	"github.com/freshetdev/freshet/internal/testenv"
	"github.com/freshetdev/freshet/store"
)

// All that can be reached over TLS, with the certificates that the URL names; and not without them.
func TestTLS(t *testing.T) {
	certs := testenv.NewCerts(t)
	for name, start := range map[string]func(t *testing.T) (url string, failover func()){
		"single": func(t *testing.T) (string, func()) {
			s := testenv.Redis(t, testenv.TLS(certs))
			return s.URL(), func() { s.Restart() }
		},
		"Sentinel": func(t *testing.T) (string, func()) {
			g := testenv.Sentinel(t, testenv.TLS(certs))
			return g.URL(), func() { g.Failover(t) }
		},
		"Cluster": func(t *testing.T) (string, func()) {
			g := testenv.Cluster(t, testenv.TLS(certs))
			return g.URL(), func() { g.Failover(t, g.Primary(t, "k")) }
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			url, failover := start(t)
			s := open(t, url, roomy)
			ctx := t.Context()
			use := func() error {
				if err := s.Write(ctx, "k", []byte("v"), time.Minute); err != nil {
					return err
				}
				if vals, err := s.Read(ctx, []string{"k"}, false); err != nil || string(vals[0].Image) != "v" {
					t.Errorf("read %q, %v; want v", vals, err)
				}
				h, err := s.NewEpoch(ctx, 0, store.Head{}, 0)
				if err != nil {
					return err
				}
				_, err = s.Drop(ctx, 0, store.Drop{Keys: []string{"k"}}, h.Head)
				return err
			}
			if err := use(); err != nil {
				t.Fatal(err)
			}
			failover()
			eventually(t, "it works after a failover", func() bool {
				vals, err := s.Read(ctx, []string{"k"}, false)
				return err == nil && vals[0].Image == nil && s.Write(ctx, "k", []byte("v"), time.Minute) == nil
			})

			bare, _, _ := strings.Cut(url, "tls_")
			stranger, err := Open(strings.TrimRight(bare, "?&"), Options{})
			if err != nil {
				t.Fatal(err)
			}
			defer stranger.Close()
			eventually(t, "without its authority the server isn't trusted", func() bool {
				_, err := stranger.Read(ctx, []string{"k"}, false)
				return err != nil && strings.Contains(err.Error(), "certificate signed by unknown authority")
			})
		})
	}
}
