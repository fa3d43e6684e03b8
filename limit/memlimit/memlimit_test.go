package memlimit

import (
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/freshetdev/freshet/limit"
	"github.com/freshetdev/freshet/limit/limittest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestContract(t *testing.T) {
	limittest.Run(t, limittest.Options{Bubble: true}, func(*testing.T) limit.Store { return New(Options{}) })
}

// The same in real time, where goroutines really run at once.
func TestContractInRealTime(t *testing.T) {
	limittest.Run(t, limittest.Options{}, func(*testing.T) limit.Store { return New(Options{}) })
}

func TestCompareWithTheModel(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		limittest.Compare(t, func() limittest.Pair {
			model := limittest.NewModel(func() int64 { return time.Now().UnixMicro() })
			return limittest.Pair{A: New(Options{}), B: model, Advance: time.Sleep}
		})
	})
}
