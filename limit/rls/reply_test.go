package rls_test

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/dunglas/httpsfv"
	ratelimitv3 "github.com/envoyproxy/go-control-plane/envoy/service/ratelimit/v3"

	"github.com/freshetdev/freshet/limit/rls"
)

const shop = `
domain: shop
descriptors:
- key: ip
  rate_limit: { unit: second, requests_per_unit: 10, burst: 2 }
- key: user
  rate_limit: { unit: minute, requests_per_unit: 20, unit_multiplier: 2, name: per user! }
- key: dark
  shadow_mode: true
  rate_limit: { unit: second, requests_per_unit: 0 }
- key: free
  rate_limit: { unlimited: true }
- key: none
  rate_limit: { unit: hour, requests_per_unit: 0, name: nothing }
`

// headers are those of a reply, as "name: value".
func headers(resp *ratelimitv3.RateLimitResponse) string {
	var lines []string
	for _, h := range resp.GetResponseHeadersToAdd() {
		lines = append(lines, h.GetKey()+": "+h.GetValue())
	}
	return strings.Join(lines, "\n")
}

func TestHeaders(t *testing.T) {
	want := func(resp *ratelimitv3.RateLimitResponse, want ...string) {
		t.Helper()
		if got, want := headers(resp), strings.Join(want, "\n"); got != want {
			t.Errorf("headers\n%s\nwant\n%s", got, want)
		}
	}
	ip, user, dark, none := descriptor("ip=1"), descriptor("user=1"), descriptor("dark"), descriptor("none")
	all := request("shop", ip, user, dark, descriptor("free"), descriptor("color=red"))

	draft := newRig(t, shop, rls.Options{Headers: rls.HeadersDraft})
	policies := `ratelimit-policy: "shop.ip";q=10;w=1, "per-user--26ede800";q=20;w=120`
	got := draft.ask(all)
	want(got, policies, `ratelimit: "shop.ip";r=1;t=1, "per-user--26ede800";r=19;t=6`)
	if first, second := nameOf(t, got, 0), nameOf(t, got, 1); first != "shop.ip" || second != "per-user--26ede800" {
		t.Errorf("another parser reads %q and %q", first, second)
	}
	want(draft.ask(all), policies, `ratelimit: "shop.ip";r=0;t=1, "per-user--26ede800";r=18;t=6`)
	want(draft.ask(all), policies, `ratelimit: "shop.ip";r=0;t=1, "per-user--26ede800";r=18;t=6`, "retry-after: 1")
	// Of limits with the same name the tighter one.
	want(draft.ask(request("shop", descriptor("ip=2"), ip)), `ratelimit-policy: "shop.ip";q=10;w=1`, `ratelimit: "shop.ip";r=0;t=1`, "retry-after: 1")
	// A limit that is untouched has no t.
	want(draft.ask(request("shop", descriptor("ip=3", hits(0)))), `ratelimit-policy: "shop.ip";q=10;w=1`, `ratelimit: "shop.ip";r=2`)
	// What can't ever be admitted has no Retry-After.
	want(draft.ask(request("shop", none)), `ratelimit-policy: "nothing";q=0;w=3600`, `ratelimit: "nothing";r=0`)
	// Nothing to tell: no limit, or one that clients needn't know of.
	want(draft.ask(request("shop", dark)))
	want(draft.ask(request("shop", descriptor("free"), descriptor("color=red"))))
	want(draft.ask(request("shop", descriptor("ip=1", back(0)))))

	legacy := newRig(t, shop, rls.Options{Headers: rls.HeadersLegacy})
	want(legacy.ask(all), "x-ratelimit-limit: 10", "x-ratelimit-remaining: 1", "x-ratelimit-reset: 1")
	legacy.ask(request("shop", descriptor("user=1", hits(19))))
	want(legacy.ask(all), "x-ratelimit-limit: 20", "x-ratelimit-remaining: 0", "x-ratelimit-reset: 120", "retry-after: 6")
	want(legacy.ask(request("shop", none)), "x-ratelimit-limit: 0", "x-ratelimit-remaining: 0", "x-ratelimit-reset: 0")
	want(legacy.ask(request("shop", dark)))

	plain := newRig(t, shop, rls.Options{})
	want(plain.ask(all))
	want(plain.ask(request("shop", none)))
	if resp := plain.ask(request("shop", none)); resp.GetRawBody() != nil || resp.GetDynamicMetadata() != nil {
		t.Errorf("%v; want neither a body nor metadata", resp)
	}

	// In an outage there is nothing to tell but when to try again.
	down := newRig(t, "domain: d\ndescriptors:\n- key: k\n  rate_limit: { unit: day, requests_per_unit: 9, on_outage: deny }", rls.Options{Headers: rls.HeadersDraft})
	down.store.fail(errDown)
	want(down.ask(request("d", descriptor("k"))), "retry-after: 1")
}

// nameOf is the name of the i-th policy in ratelimit-policy, read by somebody else's parser; it checks both fields on the way.
func nameOf(t *testing.T, resp *ratelimitv3.RateLimitResponse, i int) string {
	t.Helper()
	var name string
	for _, h := range resp.GetResponseHeadersToAdd() {
		var need []string
		switch h.GetKey() {
		case "ratelimit-policy":
			need = []string{"q", "w"}
		case "ratelimit":
			need = []string{"r"}
		default:
			continue
		}
		list, err := httpsfv.UnmarshalList([]string{h.GetValue()})
		if err != nil {
			t.Fatalf("%s: %s: %v", h.GetKey(), h.GetValue(), err)
		}
		for j, member := range list {
			item, isItem := member.(httpsfv.Item)
			s, isString := item.Value.(string)
			if !isItem || !isString {
				t.Fatalf("%s: %s: member %d isn't a string", h.GetKey(), h.GetValue(), j)
			}
			for _, p := range need {
				if v, there := item.Params.Get(p); !there {
					t.Errorf("%s: %s: no %s", h.GetKey(), h.GetValue(), p)
				} else if _, isInt := v.(int64); !isInt {
					t.Errorf("%s: %s: %s is %v; want an integer", h.GetKey(), h.GetValue(), p, v)
				}
			}
			if i == j {
				name = s
			}
		}
	}
	return name
}

func TestProblemBody(t *testing.T) {
	r := newRig(t, shop, rls.Options{ProblemBody: true})
	if resp := r.ask(request("shop", descriptor("ip=1", hits(2)))); resp.GetRawBody() != nil || headers(resp) != "" {
		t.Errorf("%v; want no body for what is admitted", resp)
	}
	resp := r.ask(request("shop", descriptor("ip=1"), descriptor("user=1"), descriptor("none"), descriptor("dark"), descriptor("ip=1")))
	if got := headers(resp); got != "content-type: application/problem+json" {
		t.Errorf("headers %s", got)
	}
	var problem map[string]any
	if err := json.Unmarshal(resp.GetRawBody(), &problem); err != nil {
		t.Fatalf("%s: %v", resp.GetRawBody(), err)
	}
	want := map[string]any{
		"type":              "https://iana.org/assignments/http-problem-types#quota-exceeded",
		"title":             "Quota exceeded",
		"status":            429.0,
		"violated-policies": []any{"shop.ip", "nothing"},
	}
	if fmt.Sprint(problem) != fmt.Sprint(want) {
		t.Errorf("body %v; want %v", problem, want)
	}
}

func TestMetadata(t *testing.T) {
	r := newRig(t, shop, rls.Options{Metadata: true})
	f := func(want string, resp *ratelimitv3.RateLimitResponse) {
		t.Helper()
		if got := fmt.Sprint(resp.GetDynamicMetadata().AsMap()); got != want {
			t.Errorf("metadata %s; want %s", got, want)
		}
	}
	f("map[allowed:true degraded:false limit:shop.ip remaining:1 shadowed:false source:store]", r.ask(request("shop", descriptor("ip=1"), descriptor("user=1"))))
	f("map[allowed:true degraded:false shadowed:false]", r.ask(request("shop", descriptor("color=red"))))
	f("map[allowed:true degraded:false limit:shop.dark remaining:0 shadowed:true source:store]", r.ask(request("shop", descriptor("dark"))))
	r.ask(request("shop", descriptor("ip=1")))
	r.sleep(40 * time.Millisecond)
	f("map[allowed:false degraded:false limit:shop.ip remaining:0 retry_after_seconds:0.06 shadowed:false source:store violated:[shop.ip]]", r.ask(request("shop", descriptor("ip=1"))))
	f("map[allowed:false degraded:false limit:nothing remaining:0 shadowed:false source:store violated:[nothing]]", r.ask(request("shop", descriptor("none"))))
}
