package proxy

import (
	"net/http"
	"sync"

	"github.com/freshetdev/freshet/observe"
)

// A handoff brings an answer that may not be stored from the load to the one request that
// may have it, with its body still open. The load may be slower than the client's patience, so
// either side can come first:
//
//	load    offer: true, and later the request takes the answer
//	        offer: false, the request has left; the load closes the answer
//	request take: the answer, or nil if none was offered; no offer succeeds after it
type handoff struct {
	mu     sync.Mutex
	resp   *http.Response // guarded by mu
	reason observe.Reason // why resp is not stored; guarded by mu
	taken  bool           // guarded by mu
}

func (h *handoff) offer(resp *http.Response, reason observe.Reason) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.taken || h.resp != nil {
		return false
	}
	h.resp, h.reason = resp, reason
	return true
}

func (h *handoff) take() (*http.Response, observe.Reason) {
	h.mu.Lock()
	defer h.mu.Unlock()
	resp := h.resp
	h.resp, h.taken = nil, true
	return resp, h.reason
}
