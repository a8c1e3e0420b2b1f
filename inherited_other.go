//go:build !cgo || !unix

package main

import (
	"os"
	"os/signal"
	"slices"
	"syscall"
)

// inherited are the signals that this process was started with as ignored, as far as Go says. Those
// that stop a process it leaves as they are; the others are lost.
func inherited() []os.Signal {
	return slices.DeleteFunc([]os.Signal{syscall.SIGHUP, syscall.SIGINT}, func(s os.Signal) bool { return !signal.Ignored(s) })
}
