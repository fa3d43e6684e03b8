package proxy

import (
	"net/http"

	"github.com/freshetdev/freshet/limit/httplimit"
	"github.com/freshetdev/freshet/observe"
)

// Refused answers a request that a limit refused. It is for httplimit.Options.Refuse of the Middleware in
// [Options].Limits.
//
// The answer has no Cache-Status: no cache had a part in it (RFC 9211 §2).
func Refused(w http.ResponseWriter, r *http.Request, f httplimit.Refusal) {
	if rec, ok := w.(*recorder); ok {
		rec.x.Outcome, rec.x.Reason, rec.x.Limits = Limit, reasonOf(f.Kind), f.Violated
	}
	f.Write(w, r)
}

func reasonOf(k httplimit.Kind) observe.Reason {
	switch k {
	case httplimit.QuotaExceeded, httplimit.AbnormalUsage:
		return ReasonOverLimit
	case httplimit.Unidentified:
		return ReasonNoIdentity
	}
	return ReasonLimitStore
}
