// Package demo is the slow API behind freshet demo: user profiles in an SQLite file, behind a query that takes its time. Its answers name what they
// depend on, and the file can be written to by any program.
package demo

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"time"

	"github.com/freshetdev/freshet"
)

// Delay is how long reading a profile takes.
const Delay = 100 * time.Millisecond

// A User is one profile.
type User struct {
	ID      int    `json:"id"`
	Name    string `json:"name"`
	Email   string `json:"email"`
	City    string `json:"city"`
	Version int    `json:"version"` // grows with every update, whoever makes it
}

// An API serves the profiles.
type API struct {
	mux     *http.ServeMux
	db      *sql.DB
	changed func(context.Context)
}

// New returns an API over a database that [Create] made. It calls changed after each write, before it answers.
func New(db *sql.DB, changed func(context.Context)) *API {
	a := &API{mux: http.NewServeMux(), db: db, changed: changed}
	a.handle("GET /{$}", a.index)
	a.handle("GET /users/{id}", a.read)
	a.handle("PUT /users/{id}", a.update)
	return a
}

// ServeHTTP answers one request.
func (a *API) ServeHTTP(w http.ResponseWriter, r *http.Request) { a.mux.ServeHTTP(w, r) }

// A statusError is an error with the status that a client gets for it.
type statusError struct {
	status int
	text   string
}

func (e *statusError) Error() string { return e.text }

// handle registers a handler that returns what to send, or an error.
func (a *API) handle(pattern string, h func(*http.Request) (any, error)) {
	a.mux.HandleFunc(pattern, func(w http.ResponseWriter, r *http.Request) {
		v, err := h(r)
		status := http.StatusOK
		if err != nil {
			status = http.StatusInternalServerError
			if se, ok := errors.AsType[*statusError](err); ok {
				status = se.status
			}
			v = map[string]string{"error": err.Error()}
		}
		if u, ok := v.(User); ok { // what the answer depends on
			w.Header().Set("Surrogate-Key", freshet.Tag("users", u.ID))
		}
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(status)
		_ = json.NewEncoder(w).Encode(v) // a client that left needs no answer
	})
}

func (a *API) index(*http.Request) (any, error) {
	return map[string]string{"read": "GET /users/{1..100}", "update": `PUT /users/{id} {"name": "…", "email": "…", "city": "…"}`}, nil
}

func (a *API) read(r *http.Request) (any, error) {
	id, err := userID(r)
	if err != nil {
		return nil, err
	}
	select { // a query that takes its time
	case <-time.After(Delay):
	case <-r.Context().Done():
		return nil, r.Context().Err()
	}
	return a.user(r.Context(), id)
}

func (a *API) user(ctx context.Context, id int) (any, error) {
	var u User
	err := a.db.QueryRowContext(ctx, `SELECT id, name, email, city, version FROM users WHERE id = ?`, id).Scan(&u.ID, &u.Name, &u.Email, &u.City, &u.Version)
	if errors.Is(err, sql.ErrNoRows) {
		return nil, &statusError{http.StatusNotFound, fmt.Sprintf("no user %d", id)}
	}
	if err != nil {
		return nil, err
	}
	return u, nil
}

func (a *API) update(r *http.Request) (any, error) {
	id, err := userID(r)
	if err != nil {
		return nil, err
	}
	var change struct{ Name, Email, City *string }
	d := json.NewDecoder(http.MaxBytesReader(nil, r.Body, 64<<10))
	d.DisallowUnknownFields()
	if err := d.Decode(&change); err != nil {
		return nil, &statusError{http.StatusBadRequest, `want JSON such as {"name": "Grace"}: ` + err.Error()}
	}
	_, err = a.db.ExecContext(r.Context(), `UPDATE users SET name = coalesce(?, name), email = coalesce(?, email), city = coalesce(?, city) WHERE id = ?`,
		change.Name, change.Email, change.City, id)
	if err != nil {
		return nil, err
	}
	a.changed(r.Context())
	return a.user(r.Context(), id)
}

func userID(r *http.Request) (int, error) {
	id, err := strconv.Atoi(r.PathValue("id"))
	if err != nil {
		return 0, &statusError{http.StatusNotFound, "user ids are numbers"}
	}
	return id, nil
}
