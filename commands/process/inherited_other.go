//go:build !cgo || !unix

package process

import (
	"os"
	"os/signal"
	"slices"
	"syscall"
)

// IgnoredAtStart returns the signals that were ignored when this process started, as far as Go's
// runtime remembers them: SIGHUP and SIGINT. The runtime does not change the signals that stop a
// process, such as SIGTSTP. For all others there is no way to know.
func IgnoredAtStart() []os.Signal {
	return slices.DeleteFunc([]os.Signal{syscall.SIGHUP, syscall.SIGINT}, func(s os.Signal) bool { return !signal.Ignored(s) })
}
