package memlimit

import (
	"testing"
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
	limittest.Run(t, limittest.Options{Parallel: true}, func(*testing.T) limit.Store { return New(Options{}) })
}

func TestCompareWithTheModel(t *testing.T) {
	limittest.Compare(t, func() limittest.Pair {
		clock := new(limittest.Clock)
		clock.Set(1_790_000_000_123_456)
		s := New(Options{})
		s.fake = clock.Now
		return limittest.Pair{
			A: s, B: limittest.NewModel(clock.Now),
			Advance: func(d time.Duration) { clock.Set(clock.Now() + d.Microseconds()) },
		}
	})
}
