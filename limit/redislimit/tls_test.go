package redislimit

import (
	"strings"
	"testing"

	"github.com/freshetdev/freshet/internal/testenv"
	"github.com/freshetdev/freshet/limit"
)

// TestTLS: all that can be reached over TLS, with the certificates that the URL names; and not without them.
func TestTLS(t *testing.T) {
	certs := testenv.NewCerts(t)
	for name, start := range map[string]func(t *testing.T) (url string, failover func()){
		"single": func(t *testing.T) (string, func()) {
			srv := testenv.Redis(t, testenv.TLS(certs))
			return srv.URL(), func() { srv.Restart() }
		},
		"Sentinel": func(t *testing.T) (string, func()) {
			g := testenv.Sentinel(t, testenv.TLS(certs))
			return g.URL(), func() { g.Failover(t) }
		},
		"Cluster": func(t *testing.T) (string, func()) {
			g := testenv.Cluster(t, testenv.TLS(certs))
			return g.URL(), func() { g.Failover(t, g.Primary(t, "limit:g:{for-ever:k}")) }
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			url, failover := start(t)
			s := open(t, url)
			if st := take(t, s, forEver, "k", 2); st.Remaining != 3 {
				t.Errorf("%d remain; want 3", st.Remaining)
			}
			charge := limit.Charge{Policy: forEver, Key: "k", Cost: 1}
			failover()
			eventually(t, "it decides after a failover", func() bool {
				st, err := s.Take(t.Context(), charge)
				return err == nil && st.Charged
			})

			bare, _, _ := strings.Cut(url, "tls_")
			stranger, err := Open(strings.TrimRight(bare, "?&"), Options{})
			if err != nil {
				t.Fatal(err)
			}
			defer stranger.Close()
			eventually(t, "without its authority the server isn't trusted", func() bool {
				_, err := stranger.Take(t.Context(), charge)
				return err != nil && strings.Contains(err.Error(), "certificate signed by unknown authority")
			})
		})
	}
}
