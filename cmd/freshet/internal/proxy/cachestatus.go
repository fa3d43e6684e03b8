package proxy

import (
	"math"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/dunglas/httpsfv"

	"github.com/freshetdev/freshet/observe"
)

// This file says in Cache-Status (RFC 9211) how an exchange was answered. The key is never told:
// it may hold what only the client knows.

// setCacheStatus appends our member to what caches nearer to the origin said.
func setCacheStatus(h http.Header, x *Exchange) {
	own := x.cacheStatus()
	if others := h["Cache-Status"]; len(others) > 0 {
		// What is no list would make readers ignore our part, too.
		if _, err := httpsfv.UnmarshalList(others); err == nil {
			own = strings.Join(others, ", ") + ", " + own
		}
	}
	h["Cache-Status"] = []string{own}
}

// cacheStatus is our member, with a space after each semicolon: that is how the RFC prints it.
func (x *Exchange) cacheStatus() string {
	if x.Outcome == Hit {
		return "freshet; hit; ttl=" + strconv.FormatInt(seconds(x.TTL), 10) // the same, but ten times as fast
	}
	s, err := httpsfv.Marshal(x.cacheStatusItem())
	if err != nil {
		return "freshet" // can't happen: it is made of tokens and numbers
	}
	return strings.ReplaceAll(s, ";", "; ")
}

func (x *Exchange) cacheStatusItem() httpsfv.Item {
	item := httpsfv.NewItem(httpsfv.Token("freshet"))
	p := item.Params
	switch x.Outcome {
	case Hit:
		p.Add("hit", true)
		p.Add("ttl", seconds(x.TTL))
	case Stale:
		if x.Forwarded {
			p.Add("fwd", httpsfv.Token("stale"))
			if x.FwdStatus > 0 {
				p.Add("fwd-status", int64(x.FwdStatus))
			}
		} else {
			p.Add("hit", true)
		}
		p.Add("ttl", seconds(x.TTL))
		p.Add("detail", httpsfv.Token(x.Reason))
	default:
		fwd, detail := forwarded(x.Reason)
		if x.Bypass != "" {
			fwd, _ = forwarded(x.Bypass)
		}
		p.Add("fwd", httpsfv.Token(fwd))
		if x.FwdStatus > 0 {
			p.Add("fwd-status", int64(x.FwdStatus))
		}
		if x.Stored {
			p.Add("stored", true)
			p.Add("ttl", seconds(x.TTL))
		}
		if x.Joined {
			p.Add("collapsed", true)
		}
		if detail {
			p.Add("detail", httpsfv.Token(x.Reason))
		}
	}
	return item
}

// forwarded maps a reason to RFC 9211's shorter list of why a request went forward,
// and says whether the reason adds anything to that.
func forwarded(r observe.Reason) (fwd string, detail bool) {
	switch r {
	case observe.ReasonNone, observe.ReasonAbsent:
		return "uri-miss", false
	case ReasonMethod:
		return "method", false
	case ReasonAuthorization, ReasonCookie, ReasonCredentials, ReasonRequestNoStore, ReasonRange, ReasonPrecondition,
		ReasonRequestBody, ReasonUpgrade, ReasonEventStream, ReasonUnkeyed, ReasonEncoding, ReasonLongURL:
		return "bypass", true
	case observe.ReasonExpired, observe.ReasonStale:
		return "stale", false
	case observe.ReasonUnproven, observe.ReasonUncertified, observe.ReasonBehind, observe.ReasonCorrupt, observe.ReasonVersion, observe.ReasonSchema, observe.ReasonCodec,
		observe.ReasonPending, observe.ReasonStoreError:
		return "miss", true
	}
	return "uri-miss", true
}

func seconds(d time.Duration) int64 { return int64(math.Round(d.Seconds())) }
