package redisstore

import (
	"context"
	"crypto/sha1"
	_ "embed" // for the scripts
	"encoding/hex"

	"github.com/redis/rueidis"
)

// The scripts; each file says what it takes and returns.
var (
	//go:embed lua/identity.lua
	luaIdentity string
	//go:embed lua/claim.lua
	luaClaim string
	//go:embed lua/claim_plain.lua
	luaClaimPlain string
	//go:embed lua/fill.lua
	luaFill string
	//go:embed lua/release.lua
	luaRelease string
	//go:embed lua/drop.lua
	luaDrop string
	//go:embed lua/epoch.lua
	luaEpoch string
	//go:embed lua/register.lua
	luaRegister string

	//go:embed lua/mark.lua
	luaMark string

	claimScript      = newScript(luaIdentity + luaRegister + luaClaim)
	claimPlainScript = newScript(luaIdentity + luaClaimPlain)
	fillScript       = newScript(luaIdentity + luaFill)
	releaseScript    = newScript(luaIdentity + luaRelease)
	dropScript       = newScript(luaDrop)
	epochScript      = newScript(luaEpoch)
	registerScript   = newScript(luaRegister + "return register(1, ARGV[1])\n")

	markScript = newScript(luaMark)

	allScripts = []*script{
		claimScript, claimPlainScript, fillScript, releaseScript, dropScript, epochScript, registerScript, markScript,
	}
)

// A script is known to the server by its SHA-1. rueidis.Lua does the same, but
// not within one pipeline with other commands.
type script struct {
	text, sha string
}

func newScript(text string) *script {
	sum := sha1.Sum([]byte(text))
	return &script{text: text, sha: hex.EncodeToString(sum[:])}
}

// loadScripts saves the first users a round trip. Failing is no harm.
func loadScripts(ctx context.Context, l *link) {
	cmds := make([]rueidis.Completed, len(allScripts))
	for i, sc := range allScripts {
		cmds[i] = l.client.B().ScriptLoad().Script(sc.text).Build()
	}
	l.do(ctx, cmds...)
}

// A run is one execution of a script.
type run struct {
	script *script
	keys   []string
	args   []string
}

// scripts sends first and then the runs in one round trip, and returns the answers of
// the runs. Runs whose script the server has forgotten are repeated with the text.
func (c *call) scripts(runs []run, first ...rueidis.Completed) ([]rueidis.RedisResult, error) {
	b := c.node.s.build
	cmds := first
	for _, r := range runs {
		cmds = append(cmds, b.Evalsha().Sha1(r.script.sha).Numkeys(int64(len(r.keys))).Key(r.keys...).Arg(r.args...).Build())
	}
	skip := len(first)
	res, err := c.do(cmds...)
	if err != nil {
		return nil, err
	}
	res = res[skip:]

	var again []int
	cmds = nil
	for i, r := range runs {
		if e, ok := rueidis.IsRedisErr(res[i].Error()); ok && e.IsNoScript() {
			again = append(again, i)
			cmds = append(cmds, b.Eval().Script(r.script.text).Numkeys(int64(len(r.keys))).Key(r.keys...).Arg(r.args...).Build())
		}
	}
	if again == nil {
		return res, nil
	}
	more, err := c.do(cmds...)
	if err != nil {
		return nil, err
	}
	for j, i := range again {
		res[i] = more[j]
	}
	return res, nil
}
