package demo

import (
	"bytes"
	"context"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestAPI(t *testing.T) {
	t.Setenv("TMPDIR", t.TempDir())
	path, db, remove, err := Create(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	changes := 0
	a := New(db, func(context.Context) { changes++ })
	f := func(method, path, body string, status int, want string) {
		t.Helper()
		w := httptest.NewRecorder()
		a.ServeHTTP(w, httptest.NewRequest(method, path, strings.NewReader(body)))
		if w.Code != status || !strings.Contains(w.Body.String(), want) {
			t.Errorf("%s %s %s: %d %s; want %d, %s", method, path, body, w.Code, w.Body, status, want)
		}
		tag := ""
		if status == 200 && path != "/" {
			tag = "users:" + strings.TrimPrefix(path, "/users/")
		}
		if got := w.Header().Get("Surrogate-Key"); got != tag {
			t.Errorf("%s %s has the tag %q; want %q", method, path, got, tag)
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
	if changes != 2 {
		t.Errorf("%d changes were told of; want 2", changes)
	}

	// From outside.
	usual := patience
	defer func() { patience = usual }()
	patience = 50 * time.Millisecond
	run := func(statement, want string) {
		t.Helper()
		newest, err := Newest()
		if err != nil || newest != path {
			t.Fatalf("the newest demo is at %s, %v; want %s", newest, err, path)
		}
		var out bytes.Buffer
		if err := Run(t.Context(), path, statement, &out); err != nil || out.String() != want {
			t.Errorf("%s: %q, %v; want %q", statement, out.String(), err, want)
		}
	}
	if err := Run(t.Context(), path, "DELETE FROM users WHERE id > 98", new(bytes.Buffer)); err == nil || !strings.Contains(err.Error(), "nobody took notice") {
		t.Errorf("without a gateway: %v", err)
	}
	patience = usual
	if _, err := db.Exec("CREATE TABLE freshet_changes (id)"); err != nil { // as a gateway that has taken notice leaves it
		t.Fatal(err)
	}
	run("UPDATE users SET name = 'Lin' WHERE id = 1", "1 row changed\n")
	run("DELETE FROM users WHERE id > 96", "2 rows changed\n")
	run("SELECT id, name, city FROM users WHERE id IN (1, 9)", "id  name      city\n1   Lin       Lisbon\n9   Margaret  Oslo\n")
	f("GET", "/users/1", "", 200, `"name":"Lin","email":"user1@example.com","city":"Lisbon","version":3}`)
	if err := Run(t.Context(), path, "nonsense", new(bytes.Buffer)); err == nil || !strings.Contains(err.Error(), "syntax error") {
		t.Errorf("nonsense: %v", err)
	}

	if err := remove(); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Dir(path)); !os.IsNotExist(err) {
		t.Errorf("the folder is still there: %v", err)
	}
	if _, err := Newest(); err == nil {
		t.Error("a demo is running")
	}
	if err := Run(t.Context(), path, "SELECT 1", new(bytes.Buffer)); err == nil {
		t.Error("a file that isn't there was opened")
	}
}
