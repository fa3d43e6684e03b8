// Package demo is the slow API behind freshet demo: user profiles, as a service would
// serve them from a database that takes its time.
package demo

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"sync"
	"time"
)

// Delay is how long reading a profile takes.
const Delay = 100 * time.Millisecond

// A User is one profile.
type User struct {
	ID      int    `json:"id"`
	Name    string `json:"name"`
	Email   string `json:"email"`
	City    string `json:"city"`
	Version int    `json:"version"` // grows with every update
}

// An API serves the profiles.
type API struct {
	mux *http.ServeMux

	mu    sync.Mutex
	users map[int]User // guarded by mu
}

// New returns an API with a hundred profiles.
func New() *API {
	a := &API{mux: http.NewServeMux(), users: make(map[int]User)}
	for id := 1; id <= 100; id++ {
		name := names[(id-1)%len(names)]
		a.users[id] = User{
			ID: id, Name: name, Email: fmt.Sprintf("user%d@example.com", id), City: cities[id%len(cities)], Version: 1,
		}
	}
	a.handle("GET /{$}", a.index)
	a.handle("GET /users/{id}", a.read)
	a.handle("PUT /users/{id}", a.update)
	return a
}

var (
	names  = []string{"Ada", "Alan", "Barbara", "Donald", "Edsger", "Frances", "Ken", "Leslie", "Margaret", "Niklaus"}
	cities = []string{"Delft", "Lisbon", "Oslo", "Porto", "Turin", "Vienna", "Zurich"}
)

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
	select { // the query
	case <-time.After(Delay):
	case <-r.Context().Done():
		return nil, r.Context().Err()
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	u, ok := a.users[id]
	if !ok {
		return nil, &statusError{http.StatusNotFound, fmt.Sprintf("no user %d", id)}
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
	a.mu.Lock()
	defer a.mu.Unlock()
	u, ok := a.users[id]
	if !ok {
		return nil, &statusError{http.StatusNotFound, fmt.Sprintf("no user %d", id)}
	}
	set(&u.Name, change.Name)
	set(&u.Email, change.Email)
	set(&u.City, change.City)
	u.Version++
	a.users[id] = u
	return u, nil
}

func set(field *string, value *string) {
	if value != nil {
		*field = *value
	}
}

func userID(r *http.Request) (int, error) {
	id, err := strconv.Atoi(r.PathValue("id"))
	if err != nil {
		return 0, &statusError{http.StatusNotFound, "user ids are numbers"}
	}
	return id, nil
}
