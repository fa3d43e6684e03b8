// Command bench compares freshet with other caches, and with the parts below them, on one
// machine in one run. README.md says what each scenario does and shows the last results.
//
//	go run . -quick                      everything, briefly, for a few caches
//	go run . -scenario S1,S2 -rounds 5   measure; writes README.md and results/
//	go run . -render                     write README.md again from results/
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"syscall"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Args[1:], os.Stdout, os.Stderr); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}
