// Command freshet-rls serves Envoy's Rate Limit Service. See freshet-rls -help, and docs/envoy.md.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"syscall"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // a second signal ends the program at once
	switch err := run(ctx, os.Args[1:], os.Stderr); {
	case err == nil, errors.Is(err, flag.ErrHelp):
	case errors.Is(err, errUsage): // flag has said what is wrong
		os.Exit(2)
	default:
		fmt.Fprintln(os.Stderr, "freshet-rls:", err)
		os.Exit(1)
	}
}
