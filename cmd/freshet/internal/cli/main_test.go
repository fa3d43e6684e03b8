package cli

import (
	"context"
	"os"
	"os/signal"
	"syscall"
	"testing"

	"go.uber.org/goleak"

	"github.com/freshetdev/freshet/internal/testenv"
)

func TestMain(m *testing.M) {
	// As main does it.
	testenv.RunChildRole(map[string]func(args []string) int{"freshet": func(args []string) int {
		ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
		context.AfterFunc(ctx, stop)
		return Main(ctx, args, os.Stdout, os.Stderr)
	}})
	goleak.VerifyTestMain(m)
}
