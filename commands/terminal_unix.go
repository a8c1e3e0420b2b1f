//go:build unix

package commands

import (
	"os"
	"os/signal"
	"syscall"
)

// notifyTerminal has signals told when the terminal has another size, or the program goes on after
// a shell has had the terminal.
func notifyTerminal(signals chan<- os.Signal) {
	signal.Notify(signals, syscall.SIGWINCH, syscall.SIGCONT)
}

func isContinued(s os.Signal) bool { return s == syscall.SIGCONT }
