package freshettest

import (
	"github.com/freshetdev/freshet/store"
	"github.com/freshetdev/freshet/store/memstore"
)

// Wrap is a connection without faults.
func Wrap(mem *memstore.Store) store.Store { return newConn(mem, 0) }
