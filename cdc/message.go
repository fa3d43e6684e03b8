package cdc

import (
	"bytes"
	"encoding/json"
	"fmt"

	"github.com/freshetdev/freshet/internal/keys"
)

// MessagePrefix is the prefix of messages that are meant for a pump, where the database has prefixes.
const MessagePrefix = "freshet"

// maxMessage bounds a message in a transaction.
const maxMessage = 1 << 20

// ParseMessage reads a drop that a program wrote into its transaction (pg_logical_emit_message): a JSON object with what to drop,
//
//	{"tags": ["users:7"], "keys": ["user:7:profile"], "publish": [{"channel": "users", "payload": "7"}]}
//
// each of which may be left out. Tags are written as freshet.Tag makes them. It rides in the transaction, so it is dropped
// when what the transaction wrote is visible, and not at all if it is rolled back. Unknown fields are an error; the pump
// drops everything for a message that it can't read.
func ParseMessage(text []byte) (Drops, error) {
	var m struct {
		Tags    []string  `json:"tags"`
		Keys    []string  `json:"keys"`
		Publish []Publish `json:"publish"`
	}
	if len(text) > maxMessage {
		return Drops{}, fmt.Errorf("cdc: message of %d bytes; want at most %d", len(text), maxMessage)
	}
	d := json.NewDecoder(bytes.NewReader(text))
	d.DisallowUnknownFields()
	if err := d.Decode(&m); err != nil {
		return Drops{}, fmt.Errorf(`cdc: message %.80q: %w; want {"tags": [...], "keys": [...]}`, text, err)
	}
	if d.More() {
		return Drops{}, fmt.Errorf("cdc: message %.80q: more than one object", text)
	}
	for _, t := range m.Tags {
		if err := keys.ValidTag(t); err != nil {
			return Drops{}, fmt.Errorf("cdc: message: %w", err)
		}
	}
	for _, k := range m.Keys {
		if k == "" || len(k) > maxKey {
			return Drops{}, fmt.Errorf("cdc: message: key of %d bytes; want 1 to %d", len(k), maxKey)
		}
	}
	drops := Drops{Tags: m.Tags, Keys: m.Keys}
	for _, p := range m.Publish {
		if p.Channel == "" {
			return Drops{}, fmt.Errorf("cdc: message %.80q: a channel is empty", text)
		}
		drops.Publish = append(drops.Publish, Message(p))
	}
	return drops, nil
}
