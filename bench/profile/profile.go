// Package profile holds the value that every cache of the comparison stores: a
// typed struct of eleven fields, 152 B in memory and 211 B as JSON, or 10,018 B
// with its history.
package profile

import (
	"fmt"
	"hash/fnv"
)

// A Profile is what a service keeps about a user.
type Profile struct {
	ID      int64    `json:"id"`
	Version int64    `json:"version"` // of the row; S5 puts the time of loading here
	Name    string   `json:"name"`
	Email   string   `json:"email"`
	Country string   `json:"country"`
	Plan    string   `json:"plan"`
	Credit  float64  `json:"credit"`
	Logins  int64    `json:"logins"`
	Active  bool     `json:"active"`
	Tags    []string `json:"tags"`
	History []Line   `json:"history,omitempty"`
}

// A Line is one entry of a history.
type Line struct {
	At   int64  `json:"at"`
	What string `json:"what"`
	By   string `json:"by"`
}

// HistoryLines is the length of the history of a large profile.
const HistoryLines = 118

// Of returns the profile of key as the source would: always the same one, in
// bytes of its own.
func Of(key string, version int64) Profile {
	h := fnv.New64a()
	h.Write([]byte(key))
	id := int64(100000 + h.Sum64()%900000)
	return Profile{
		ID:      id,
		Version: version,
		Name:    fmt.Sprintf("Alex Petersen %06d", id),
		Email:   fmt.Sprintf("a.petersen.%06d@example.com", id),
		Country: "Denmark",
		Plan:    "professional",
		Credit:  1234.25,
		Logins:  4711,
		Active:  true,
		Tags:    []string{"beta", "newsletter"},
	}
}

// LargeOf is Of with a history.
func LargeOf(key string, version int64) Profile {
	p := Of(key, version)
	p.History = make([]Line, HistoryLines)
	for i := range p.History {
		p.History[i] = Line{
			At:   1_700_000_000 + int64(i),
			What: "changed the plan to professional",
			By:   fmt.Sprintf("support1.%06d", p.ID),
		}
	}
	p.History[0].What = "opened the account on the website"
	return p
}
