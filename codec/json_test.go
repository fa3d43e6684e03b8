package codec

import (
	"encoding/json"
	"reflect"
	"testing"
	"time"

	"github.com/go-json-experiment/json/jsontext"
)

// What values are read with must take exactly what encoding/json takes, for the same value: other programs write
// plain entries, and Go 1.27 changes the implementation.
type shape struct {
	insider
	ID     int64                      `json:"id"`
	Name   string                     `json:"name,omitempty"`
	Quoted int                        `json:"quoted,string"`
	Ratio  float64                    `json:"ratio"`
	At     time.Time                  `json:"at"`
	Any    any                        `json:"any"`
	Raw    json.RawMessage            `json:"raw"`
	Bytes  []byte                     `json:"bytes"`
	Four   [4]uint8                   `json:"four"`
	ByID   map[int]string             `json:"by_id"`
	Next   *shape                     `json:"next"`
	Text   texted                     `json:"text"`
	Own    owned                      `json:"own"`
	Props  map[string]json.RawMessage `json:"props"`
	Plain  string
}

type insider struct {
	Inner bool `json:"inner"`
}

type texted struct{ s string }

func (t *texted) UnmarshalText(b []byte) error { t.s = "text:" + string(b); return nil }

type owned struct{ s string }

func (o *owned) UnmarshalJSON(b []byte) error { o.s = "json:" + string(b); return nil }

func FuzzJSONAsEncodingJSON(f *testing.F) {
	for _, seed := range []string{
		`{"id":1,"name":"Ada","quoted":"7","ratio":1e3,"at":"2026-01-02T03:04:05Z","any":{"a":[1,2.5,null,"x"]},"raw":{"b": 1}}`,
		`{"ID":1,"NAME":"other case","Plain":"p","plain":"q"}`, `{"id":1,"id":2}`, `{"inner":true,"bytes":"AQI=","four":[1,2,3]}`,
		`{"four":[1,2,3,4,5]}`, `{"by_id":{"1":"a","x":"b"}}`, `{"next":{"next":null,"id":3},"text":"t","own":[1, 2]}`,
		`{"num":[12.50]}`, `{"num":["12"]}`, `{"num":["x"]}`, `{"num":{"a":1.0}}`, `{"Base":{"inner":true},"inner":false}`, `[{"Streamed":{"S":"x"}}]`, `{"quoted":7}`, `{"name":"\ud800\u0000\ufffd"}`, "{\"name\":\"\xff\xfe\"}",
		`null`, `[]`, ` {} `, `{} x`, `{"id":1.0}`, `{"id":9223372036854775808}`, `{"id":"1"}`, `{"ratio":1e999}`, `{"at":"nonsense"}`,
		`{"any":12345678901234567890}`, `{"raw":null,"props":{"a":null}}`, `{"bytes":"!"}`, `{"unknown":{"deep":[[[[1]]]]}}`, `{"id":null,"next":null}`,
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		same[shape](t, data)
		same[any](t, data)
		same[map[string]any](t, data)
		same[[]string](t, data)
		same[*int](t, data)
		same[string](t, data)
		same[struct{ Num []json.Number }](t, data)
		same[map[string]struct{ A, B json.Number }](t, data)
		same[struct {
			Base insider `json:",embed"`
		}](t, data)
		same[[]struct{ Streamed streamed }](t, data)
	})
}

func same[V any](t *testing.T, data []byte) {
	t.Helper()
	var want V
	wantErr := json.Unmarshal(data, &want)
	got, err := JSON[V]().Decode(data)
	var zero V
	switch {
	case (err == nil) != (wantErr == nil):
		t.Errorf("%q to %v: error %v; encoding/json says %v", data, reflect.TypeFor[V](), err, wantErr)
	case err != nil && !reflect.DeepEqual(got, zero):
		t.Errorf("%q to %v: %+v beside an error", data, reflect.TypeFor[V](), got)
	case err == nil && !reflect.DeepEqual(got, want):
		t.Errorf("%q to %v: %+v; encoding/json says %+v", data, reflect.TypeFor[V](), got, want)
	}
}

type streamed struct{ S string }

func (s *streamed) UnmarshalJSONFrom(d *jsontext.Decoder) error {
	s.S = "streamed"
	return d.SkipValue()
}
