package proxy

import (
	"bytes"
	"net/http"
	"reflect"
	"testing"
	"time"
)

func TestResponseBytes(t *testing.T) {
	s := &Response{
		Header: http.Header{"B": {"1", "2"}, "A": {""}},
		Body:   []byte("xyz"), Length: 3, Age: 1500 * time.Millisecond,
	}
	b := s.append([]byte("before"))
	want := "before" + "\x01" + "\xdc\x0b" + "\x04" + "\x03" + "\x01A\x00" + "\x01B\x011" + "\x01B\x012" + "\x03xyz"
	if string(b) != want {
		t.Errorf("encoded %q; want %q", b, want)
	}
	got, err := decodeResponse(b[len("before"):])
	if err != nil || !reflect.DeepEqual(got, s) {
		t.Errorf("decoded %+v, %v; want %+v", got, err, s)
	}
	for i := range len(b) - len("before") {
		if _, err := decodeResponse(b[len("before") : len("before")+i]); err == nil {
			t.Errorf("the first %d bytes were taken for the whole", i)
		}
	}
	if _, err := decodeResponse(append(b[len("before"):], 0)); err == nil {
		t.Error("a byte too many was not seen")
	}
	refused := func(what string, s *Response) {
		t.Helper()
		if _, err := decodeResponse(s.append(nil)); err == nil {
			t.Errorf("%s came back", what)
		}
	}
	refused("a cookie", &Response{Header: http.Header{"Set-Cookie": {"a=b"}}})
	refused("a client's quota", &Response{Header: http.Header{"Ratelimit": {`"p";r=1`}}})
	refused("a split field", &Response{Header: http.Header{"A": {"b\r\nSet-Cookie: c"}}})
	refused("a nameless field", &Response{Header: http.Header{"": {"b"}}})
	refused("a body longer than its length", &Response{Body: []byte("ab"), Length: 1})
}

func FuzzDecodeResponse(f *testing.F) {
	f.Add((&Response{Header: http.Header{"A": {"b"}}, Body: []byte("c"), Length: 1}).append(nil))
	f.Add((&Response{Header: http.Header{"A": {"b", "c"}}, Length: -1, Age: time.Second}).append(nil))
	f.Fuzz(func(t *testing.T, b []byte) {
		s, err := decodeResponse(b)
		if err != nil {
			return
		}
		again, err := decodeResponse(s.append(nil))
		if err != nil || !reflect.DeepEqual(again, s) || !bytes.Equal(again.Body, s.Body) {
			t.Errorf("%q decodes to %+v, and that to %+v, %v", b, s, again, err)
		}
	})
}

func TestShortMemory(t *testing.T) {
	var m shortMemory
	now := time.Now()
	m.note("a", ReasonPrivate, now)
	if got := m.recall("a", now.Add(memoryTime)); got != ReasonPrivate {
		t.Errorf("recalled %q; want %q", got, ReasonPrivate)
	}
	if got := m.recall("a", now.Add(memoryTime+1)); got != "" {
		t.Errorf("recalled %q too long", got)
	}
	m.forget("a")
	if got := m.recall("a", now); got != "" {
		t.Errorf("recalled %q after it was forgotten", got)
	}
	for i := range 3 * memorySize {
		m.note(string(rune(i)), ReasonPrivate, now)
	}
	if len(m.notes) > memorySize {
		t.Errorf("%d notes; want at most %d", len(m.notes), memorySize)
	}
}

func TestHandoff(t *testing.T) {
	var h handoff
	resp := new(http.Response)
	if !h.offer(resp, ReasonPrivate) || h.offer(resp, ReasonPrivate) {
		t.Error("want the first offer to be taken, and no other")
	}
	if got, reason := h.take(); got != resp || reason != ReasonPrivate {
		t.Errorf("took %v, %q", got, reason)
	}
	if h.offer(resp, ReasonPrivate) {
		t.Error("an offer after the end was taken")
	}
}
