//go:build cgo && unix

package process

import (
	"os"
	"syscall"
)

// Go's runtime installs its own handlers before any Go code runs. It reports which signals were
// ignored before that only for SIGHUP and SIGINT. A constructor in C runs earlier.

/*
#include <signal.h>

static unsigned long long ignored; // bit 0 is signal 1

__attribute__((constructor)) static void look(void) {
	for (int n = 1; n <= 64; n++) {
		struct sigaction is;
		if (sigaction(n, 0, &is) == 0 && is.sa_handler == SIG_IGN)
			ignored |= 1ULL << (n - 1);
	}
}

static unsigned long long inherited(void) { return ignored; }
*/
import "C"

// IgnoredAtStart are the signals that were ignored when this process started. SIGCHLD is left out:
// this process needs it to learn how a child ended, and POSIX does not promise that exec keeps it
// ignored. SIGURG is left out because Go's runtime uses it.
func IgnoredAtStart() []os.Signal {
	var signals []os.Signal
	for n, ignored := syscall.Signal(1), uint64(C.inherited()); n <= 64; n++ {
		if ignored>>(n-1)&1 != 0 && n != syscall.SIGCHLD && n != syscall.SIGURG {
			signals = append(signals, n)
		}
	}
	return signals
}
