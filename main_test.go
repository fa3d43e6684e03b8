package freshet_test

import (
	"testing"

	"go.uber.org/goleak"

	"github.com/freshetdev/freshet/internal/testenv"
)

func TestMain(m *testing.M) {
	testenv.RunChildRole(map[string]func(args []string) int{
		"host":  runHost,    // host_test.go
		"stale": staleChild, // fault_test.go
		"fleet": fleetChild, // p3_test.go
	})
	goleak.VerifyTestMain(m)
}
