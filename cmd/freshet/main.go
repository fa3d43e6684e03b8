// Command freshet puts a cache in front of any HTTP API. See freshet help.
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"

	"github.com/freshetdev/freshet/cmd/freshet/internal/cli"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // a second signal ends the program at once
	os.Exit(cli.Main(ctx, os.Args[1:], os.Stdout, os.Stderr))
}
