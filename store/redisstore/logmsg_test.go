package redisstore

import (
	"os"
	"reflect"
	"strings"
	"testing"

	"github.com/freshetdev/freshet/store"
)

// The same vectors are in docs/wire.md.
var messages = []struct {
	text string
	e    store.LogEntry
}{
	{
		"1 drop 1122334455667788 1772366400000001 00000000000000ff 1772366400000000 fedcba9876543210 1 2\n" +
			"6:api-137:user:127:users:15:user!",
		store.LogEntry{
			Head: store.Head{Epoch: 0x1122334455667788, Pos: 1772366400000001, Nonce: 0xff},
			Prev: 1772366400000000, PrevNonce: 0xfedcba9876543210,
			Drop: store.Drop{Keys: []string{"user:12"}, Tags: []string{"users:1", "user!"}, By: "api-13"},
		},
	},
	{
		"1 epoch 0000000000000001 9007199254740991 ffffffffffffffff 0 0000000000000000 0 0\n0:",
		store.LogEntry{NewEpoch: true, Head: store.Head{Epoch: 1, Pos: 1<<53 - 1, Nonce: 1<<64 - 1}},
	},
}

func init() {
	// A key with every nuisance: a newline, a colon, a space, a byte that is no UTF-8.
	messages = append(messages, struct {
		text string
		e    store.LogEntry
	}{
		"1 drop 0000000000000001 2 0000000000000003 1 0000000000000004 2 0\n0:7:a\n: 1\xffb0:",
		store.LogEntry{
			Head: store.Head{Epoch: 1, Pos: 2, Nonce: 3}, Prev: 1, PrevNonce: 4,
			Drop: store.Drop{Keys: []string{"a\n: 1\xffb", ""}},
		},
	})
}

func TestLogMessages(t *testing.T) {
	for _, m := range messages {
		if got := encodeMessage(m.e); got != m.text {
			t.Errorf("encoded %q; want %q", got, m.text)
		}
		if e, err := decodeMessage(m.text); err != nil || !reflect.DeepEqual(e, m.e) {
			t.Errorf("decoded %+v, %v; want %+v", e, err, m.e)
		}
		for n := range m.text {
			if _, err := decodeMessage(m.text[:n]); err == nil {
				t.Errorf("accepted %q", m.text[:n])
			}
		}
		if _, err := decodeMessage(m.text + "x"); err == nil {
			t.Errorf("accepted %q and an x", m.text)
		}
	}
}

func TestLogMessagesAreDocumented(t *testing.T) {
	page, err := os.ReadFile("../../docs/wire.md")
	if err != nil {
		t.Fatal(err)
	}
	escape := strings.NewReplacer("\n", `\n`, "\xff", `\xff`)
	for _, m := range messages {
		if line := "\n" + escape.Replace(m.text) + "\n"; !strings.Contains(string(page), line) {
			t.Errorf("docs/wire.md lacks the vector%s", line)
		}
	}
}

func FuzzLogMessage(f *testing.F) {
	for _, m := range messages {
		f.Add(m.text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		e, err := decodeMessage(text)
		if err != nil {
			return
		}
		if again := encodeMessage(e); again != text {
			t.Errorf("%q came back as %q", text, again)
		}
	})
}
