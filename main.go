// Command ntrack is how programs find each other: announce, list, watch and serve. This file has
// the process: streams, signals and the exit code. The rest is package commands.
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"

	"ntrack/commands"
)

func main() { os.Exit(run()) }

func run() int {
	ctx, cancel := context.WithCancelCause(context.Background())
	defer cancel(nil)
	signals := make(chan os.Signal, 1)
	for _, s := range []os.Signal{syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP} {
		if !signal.Ignored(s) { // as nohup and a shell's & have it
			signal.Notify(signals, s)
		}
	}
	go func() {
		s := <-signals
		signal.Stop(signals) // a second one ends the process at once
		cancel(commands.Interrupted{Signal: s.(syscall.Signal)})
	}()
	// Without this, writing to a closed standard output would kill the process before it can leave.
	signal.Notify(make(chan os.Signal, 1), syscall.SIGPIPE)
	return commands.Main(ctx, os.Args, commands.Streams{In: os.Stdin, Out: os.Stdout, Err: os.Stderr})
}
