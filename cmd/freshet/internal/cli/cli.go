// Package cli is the freshet command: what it is told on the command line, and what it says.
package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// Exit codes.
const (
	exitFine    = 0
	exitProblem = 1
	exitUsage   = 2
)

// Main runs one command and returns its exit code. A gateway runs until ctx ends.
func Main(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	err := run(ctx, args, stdout, stderr)
	if err == nil {
		return exitFine
	}
	if _, ok := errors.AsType[errFound](err); ok {
		return exitProblem // the report is on stdout
	}
	fmt.Fprintln(stderr, "freshet:", err)
	if _, ok := errors.AsType[*usageError](err); ok {
		return exitUsage
	}
	return exitProblem
}

// A usageError is a command that can't be carried out because of how it was written.
type usageError struct{ err error }

func (e *usageError) Error() string { return e.err.Error() }
func (e *usageError) Unwrap() error { return e.err }

func usagef(format string, args ...any) error { return &usageError{fmt.Errorf(format, args...)} }

// run is the program as an ordinary function.
func run(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	root := &cobra.Command{
		Use:   "freshet",
		Short: "A cache in front of any HTTP API, that forgets when the data changes",
		Example: `  freshet demo
  freshet proxy http://127.0.0.1:3000 --ttl 30s
  freshet proxy localhost:3000 --ttl 1m --grace 5m --store redis://localhost:6379
  freshet watch -c freshet.yaml`,
		Version:       versionString(),
		SilenceErrors: true,
		SilenceUsage:  true,
	}
	started := false // before that, every error is about usage
	root.PersistentPreRun = func(*cobra.Command, []string) { started = true }
	root.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return flagError(err) })
	root.AddCommand(proxyCommand(), demoCommand(), watchCommand(), checkCommand(), doctorCommand(), explainCommand(), versionCommand())
	root.SetVersionTemplate(versionLine())
	root.SetArgs(args)
	root.SetOut(stdout)
	root.SetErr(stderr)
	called, err := root.ExecuteContextC(ctx)
	if err != nil && !started {
		return usagef("%w\nRun '%s --help' for usage.", err, called.CommandPath())
	}
	return err
}

// flagError says what came and what was wanted: "--ttl 30: want a duration such as 30s".
func flagError(err error) error {
	if bad, ok := errors.AsType[*pflag.InvalidValueError](err); ok {
		cause := bad.Unwrap()
		if bad.GetFlag().Value.Type() == "bool" {
			cause = errors.New("want true or false")
		}
		return fmt.Errorf("--%s %s: %w", bad.GetFlag().Name, strings.TrimSpace(bad.GetValue()), cause)
	}
	return err
}
