package proxy

import (
	"encoding/json"
	"net/http"
	"strconv"

	"github.com/freshetdev/freshet/observe"
)

// A problem is an error of the gateway's own, as RFC 9457 has it. It tells strangers what
// happened and nothing about what is behind the gateway.
type problem struct {
	Type   string         `json:"type,omitempty"`
	Title  string         `json:"title"`
	Status int            `json:"status"`
	Detail string         `json:"detail"`
	Code   observe.Reason `json:"code"`
}

// writeProblem answers with a problem document. Header fields set before, such as
// Cache-Status, stay.
func writeProblem(w http.ResponseWriter, r *http.Request, status int, code observe.Reason) {
	words, _ := Explain(code)
	body, _ := json.Marshal(problem{Type: problemType(code), Title: http.StatusText(status), Status: status, Detail: words, Code: code})
	body = append(body, '\n')
	h := w.Header()
	h.Set("Content-Type", "application/problem+json")
	h.Set("Content-Length", strconv.Itoa(len(body)))
	h.Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	if r.Method != http.MethodHead {
		_, _ = w.Write(body) // a client that left needs no answer
	}
}
