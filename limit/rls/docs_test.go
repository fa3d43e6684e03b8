package rls_test

import (
	"os"
	"regexp"
	"strings"
	"testing"
	"time"

	bootstrapv3 "github.com/envoyproxy/go-control-plane/envoy/config/bootstrap/v3"
	commonv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/common/ratelimit/v3"
	filterv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/ratelimit/v3"
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/router/v3"
	managerv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/upstreams/http/v3"
	"github.com/goccy/go-yaml"
	"google.golang.org/protobuf/encoding/protojson"

	"github.com/freshetdev/freshet/limit/rls"
)

// block is the YAML block of docs/envoy.md that begins with that comment.
func block(t *testing.T, name string) []byte {
	t.Helper()
	text, err := os.ReadFile("../../docs/envoy.md")
	if err != nil {
		t.Fatal(err)
	}
	m := regexp.MustCompile("(?ms)^```yaml\n# " + regexp.QuoteMeta(name) + "\n(.*?)^```").FindSubmatch(text)
	if m == nil {
		t.Fatalf("docs/envoy.md has no block %s", name)
	}
	return m[1]
}

// TestDocs: what docs/envoy.md shows is valid for Envoy's own types, and what Envoy would ask by it has the limits that
// the file shows.
func TestDocs(t *testing.T) {
	r := newRig(t, string(block(t, "limits.yaml")), rls.Options{})

	asJSON, err := yaml.YAMLToJSON(block(t, "envoy.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	var boot bootstrapv3.Bootstrap
	if err := protojson.Unmarshal(asJSON, &boot); err != nil {
		t.Fatal(err)
	}
	if err := boot.ValidateAll(); err != nil {
		t.Fatal(err)
	}
	clusters := map[string]bool{}
	for _, c := range boot.GetStaticResources().GetClusters() {
		clusters[c.GetName()] = true
		for _, o := range c.GetTypedExtensionProtocolOptions() {
			if _, err := o.UnmarshalNew(); err != nil {
				t.Error(err)
			}
		}
	}
	var manager managerv3.HttpConnectionManager
	if err := boot.GetStaticResources().GetListeners()[0].GetFilterChains()[0].GetFilters()[0].GetTypedConfig().UnmarshalTo(&manager); err != nil {
		t.Fatal(err)
	}
	var filter filterv3.RateLimit
	if err := manager.GetHttpFilters()[0].GetTypedConfig().UnmarshalTo(&filter); err != nil {
		t.Fatal(err)
	}
	for _, m := range []interface{ ValidateAll() error }{&manager, &filter} {
		if err := m.ValidateAll(); err != nil {
			t.Error(err)
		}
	}
	if name := filter.GetRateLimitService().GetGrpcService().GetEnvoyGrpc().GetClusterName(); !clusters[name] {
		t.Errorf("the filter asks the cluster %q, which isn't there", name)
	}
	if d := filter.GetTimeout().AsDuration(); d <= 15*time.Millisecond {
		t.Errorf("the filter's timeout is %v; want more than that of freshet-rls", d)
	}

	// What Envoy would ask for a request of ann's to that path.
	ask := func(path, want string) {
		t.Helper()
		req := request(filter.GetDomain())
		for _, l := range manager.GetRouteConfig().GetVirtualHosts()[0].GetRateLimits() {
			d := &commonv3.RateLimitDescriptor{}
			for _, a := range l.GetActions() {
				e := &commonv3.RateLimitDescriptor_Entry{Key: "remote_address", Value: "192.0.2.1"}
				if h := a.GetRequestHeaders(); h != nil {
					e.Key = h.GetDescriptorKey()
					e.Value = map[string]string{"x-tenant": "ann", ":path": path}[h.GetHeaderName()]
				} else if a.GetRemoteAddress() == nil {
					t.Fatalf("the test doesn't know the action %v", a)
				}
				d.Entries = append(d.Entries, e)
			}
			req.Descriptors = append(req.Descriptors, d)
		}
		if got := facts(r.ask(req)); !strings.HasPrefix(got, want) {
			t.Errorf("%s: got %s; want %s", path, got, want)
		}
	}
	ask("/login", "ok | ok per-ip 50/second 99 20ms | ok shop.tenant.path_/login 5/minute 4 1m0s")
	ask("/cart", "ok | ok per-ip 50/second 98 40ms | ok shop.tenant.path 100000/month 99999 661h")
}

// TestDocsNameAllKeys: the table of keys has each that the reader knows.
func TestDocsNameAllKeys(t *testing.T) {
	text, err := os.ReadFile("../../docs/envoy.md")
	if err != nil {
		t.Fatal(err)
	}
	_, err = rls.ParseConfig("x", []byte("?: 1\ndescriptors: [{key: k, ?: 1, rate_limit: {?: 1, requests_per_unit: 1}}]"))
	known := regexp.MustCompile("want ([a-z_, ]+)").FindAllStringSubmatch(err.Error(), -1)
	if len(known) != 3 {
		t.Fatalf("%d lists of keys in %v; want 3", len(known), err)
	}
	for _, list := range known {
		for key := range strings.SplitSeq(list[1], ", ") {
			if !regexp.MustCompile("(?m)^\\| [^|]*`" + key + "`[^|]*\\| [^|]+ \\|").Match(text) {
				t.Errorf("docs/envoy.md has no row for the key %s", key)
			}
		}
	}
}
