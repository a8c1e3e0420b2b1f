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
	signals := notify(syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP)
	waited := make(chan struct{})
	go func() {
		defer close(waited)
		if s, ok := <-signals; ok {
			signal.Stop(signals) // a second one ends the process at once
			cancel(commands.Interrupted{Signal: s.(syscall.Signal)})
		}
	}()
	// None is lost in between: it has ended ctx by the time this returns, or it comes on the channel.
	handOver := func(wanted ...os.Signal) <-chan os.Signal {
		taken := notify(wanted...)
		signal.Stop(signals)
		close(signals)
		<-waited
		return taken
	}
	// Without this, writing to a closed standard output would kill the process before it can leave.
	signal.Notify(make(chan os.Signal, 1), syscall.SIGPIPE)
	return commands.Main(ctx, os.Args, commands.Streams{In: os.Stdin, Out: os.Stdout, Err: os.Stderr, Signals: handOver})
}

// notify is signal.Notify without those that are to be ignored, as nohup and a shell's & have it.
func notify(signals ...os.Signal) chan os.Signal {
	c := make(chan os.Signal, 16)
	for _, s := range signals {
		if !signal.Ignored(s) {
			signal.Notify(c, s)
		}
	}
	return c
}
