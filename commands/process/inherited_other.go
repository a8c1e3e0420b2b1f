//go:build !cgo || !unix

package process

import (
	"os"
	"os/signal"
	"slices"
	"syscall"
)

// IgnoredAtStart are the signals that were ignored when this process started, as far as Go reports
// them: SIGHUP and SIGINT. Go leaves the signals that stop a process as they are. It loses the rest.
func IgnoredAtStart() []os.Signal {
	return slices.DeleteFunc([]os.Signal{syscall.SIGHUP, syscall.SIGINT}, func(s os.Signal) bool { return !signal.Ignored(s) })
}
