package demo

import (
	"net/http/httptest"
	"strings"
	"testing"
	"time"
)

func TestAPI(t *testing.T) {
	a := New()
	f := func(method, path, body string, status int, want string) {
		t.Helper()
		w := httptest.NewRecorder()
		a.ServeHTTP(w, httptest.NewRequest(method, path, strings.NewReader(body)))
		if w.Code != status || !strings.Contains(w.Body.String(), want) {
			t.Errorf("%s %s %s: %d %s; want %d, %s", method, path, body, w.Code, w.Body, status, want)
		}
	}
	begun := time.Now()
	f("GET", "/users/1", "", 200, `{"id":1,"name":"Ada","email":"user1@example.com","city":"Lisbon","version":1}`)
	if took := time.Since(begun); took < Delay {
		t.Errorf("a read took %v; want at least %v", took, Delay)
	}
	f("PUT", "/users/1", `{"name":"Grace"}`, 200, `"name":"Grace","email":"user1@example.com"`)
	f("GET", "/users/1", "", 200, `"name":"Grace","email":"user1@example.com","city":"Lisbon","version":2}`)
	f("GET", "/users/100", "", 200, `"id":100`)
	f("GET", "/users/101", "", 404, `no user 101`)
	f("GET", "/users/x", "", 404, `numbers`)
	f("PUT", "/users/101", `{}`, 404, `no user`)
	f("PUT", "/users/1", `{"nme":"x"}`, 400, `want JSON`)
	f("PUT", "/users/1", `x`, 400, `want JSON`)
	f("GET", "/", "", 200, `users`)
	f("DELETE", "/users/1", "", 405, ``)
	f("GET", "/nope", "", 404, ``)
}
