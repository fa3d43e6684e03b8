package redislimit

import (
	"strings"

	"github.com/freshetdev/freshet/internal/redisx"
	"github.com/freshetdev/freshet/limit"
)

// name is the key on the server of what is kept of a policy's key: its state by the kind ('g', 's', 'f', 'c'), or the
// record of its penalty ('p'). All are in one slot: that of the key's own hash tag, if it has one, else of name and key.
func (s *Store) name(what byte, p *limit.Policy, key string) string {
	var b strings.Builder
	name := p.Name()
	b.Grow(len(s.opts.Prefix) + len("limit:g:{:}") + len(name) + len(key))
	b.WriteString(s.opts.Prefix)
	b.WriteString("limit:")
	b.WriteByte(what)
	b.WriteByte(':')
	tagged := redisx.HasTag(key)
	if !tagged {
		b.WriteByte('{')
	}
	b.WriteString(name)
	b.WriteByte(':')
	b.WriteString(key)
	if !tagged {
		b.WriteByte('}')
	}
	return b.String()
}

// letters name the kinds in keys and scripts.
const letters = "gsfc"

func (s *Store) stateName(p *limit.Policy, key string) string {
	return s.name(letters[p.Rule().Kind], p, key)
}

// Slot is 0, but in a Cluster: all keys of a single server are in reach of one script.
func (s *Store) Slot(p *limit.Policy, key string) int {
	if s.many == nil {
		return 0
	}
	return int(redisx.SlotOf(s.stateName(p, key)))
}
