// Command ntrack is how programs find each other: announce, list, watch and serve. This file has what
// belongs to the process: streams, signals and the exit code. Package commands has the rest.
package main

import (
	"context"
	"os"
	"os/signal"
	"sync"
	"syscall"

	"ntrack/commands"
)

func main() { os.Exit(run()) }

func run() int {
	ctx, cancel := context.WithCancelCause(context.Background())
	defer cancel(nil)
	for _, s := range commands.IgnoredAtStart() {
		signal.Ignore(s) // in this process and in programs that it runs
	}
	if !signal.Ignored(syscall.SIGPIPE) {
		// Without this, a write to a closed standard output kills the process before it can leave.
		signal.Notify(make(chan os.Signal, 1), syscall.SIGPIPE)
	}
	// All signals arrive on one channel. So none is lost while a command takes them over.
	signals := make(chan os.Signal, 64)
	for _, s := range []os.Signal{syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP} {
		if !signal.Ignored(s) {
			signal.Notify(signals, s)
		}
	}
	var mu sync.Mutex
	takers := make(map[os.Signal]chan<- os.Signal)
	go func() {
		for s := range signals {
			mu.Lock()
			if taker := takers[s]; taker != nil {
				select {
				case taker <- s:
				default: // as signal.Notify does
				}
			} else if ctx.Err() == nil {
				cancel(commands.Interrupted{Signal: s.(syscall.Signal)})
			} else { // a second signal; its default action does not end the first process of a container
				os.Exit(128 + int(s.(syscall.Signal)))
			}
			mu.Unlock()
		}
	}()
	handOver := func(taker chan<- os.Signal, wanted ...os.Signal) {
		mu.Lock()
		defer mu.Unlock()
		for _, s := range wanted {
			takers[s] = taker
		}
		if len(wanted) > 0 {
			signal.Notify(signals, wanted...)
		}
	}
	return commands.Main(ctx, os.Args, commands.Streams{In: os.Stdin, Out: os.Stdout, Err: os.Stderr, Signals: handOver})
}
