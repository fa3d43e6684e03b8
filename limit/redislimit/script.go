package redislimit

import (
	"context"
	"crypto/sha1"
	_ "embed" // for the scripts
	"encoding/hex"

	"github.com/redis/rueidis"
)

// The scripts; each file says what it takes and returns.
var (
	//go:embed lua/gcra.lua
	luaGCRA string
	//go:embed lua/gcras.lua
	luaGCRAs string
	//go:embed lua/gcrabatch.lua
	luaGCRABatch string
	//go:embed lua/limits.lua
	luaLimits string

	ourScripts = newScripts(func(text string) string { return text })
)

type scripts struct{ gcra, gcras, batch, limits *script }

// newScripts makes the scripts; tests change their texts.
func newScripts(change func(text string) string) *scripts {
	return &scripts{
		gcra: newScript(change(luaGCRA)), gcras: newScript(change(luaGCRAs)), batch: newScript(change(luaGCRABatch)), limits: newScript(change(luaLimits)),
	}
}

func (s *scripts) all() []*script {
	return []*script{s.gcra, s.gcras, s.batch, s.limits}
}

// A script is known to the server by its SHA-1.
type script struct{ text, sha string }

func newScript(text string) *script {
	sum := sha1.Sum([]byte(text))
	return &script{text: text, sha: hex.EncodeToString(sum[:])}
}

// run executes a script where its keys live, all of them in one slot. It is repeated only after answers that
// prove that it didn't run.
func (s *Store) run(ctx context.Context, sc *script, keys, args []string) (rueidis.RedisResult, error) {
	return s.send(ctx, keys[0], func(b rueidis.Builder, full bool) rueidis.Completed {
		if full {
			return b.Eval().Script(sc.text).Numkeys(int64(len(keys))).Key(keys...).Arg(args...).Build()
		}
		return b.Evalsha().Sha1(sc.sha).Numkeys(int64(len(keys))).Key(keys...).Arg(args...).Build()
	})
}
