package memstore_test

import (
	"testing"

	"go.uber.org/goleak"

	"github.com/freshetdev/freshet/store"
	"github.com/freshetdev/freshet/store/memstore"
	"github.com/freshetdev/freshet/store/storetest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestContract(t *testing.T) {
	storetest.Run(t, func(t *testing.T) storetest.Fixture {
		srv := memstore.NewServer(memstore.Options{Partitions: 2})
		return storetest.Fixture{New: func() store.Store { return srv.Connect() }, Foreign: srv}
	})
}
