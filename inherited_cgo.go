//go:build cgo && unix

package main

import (
	"os"
	"syscall"
)

// Go's runtime installs its own handlers before any Go code runs, and does not say which signals
// were ignored before that, but for SIGHUP and SIGINT. A constructor in C runs earlier.

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

// inherited are the signals that this process was started with as ignored. SIGCHLD is none of them:
// without it nobody learns how a child ended, and POSIX does not promise that exec keeps it. SIGURG
// is the runtime's own.
func inherited() []os.Signal {
	var signals []os.Signal
	for n, ignored := syscall.Signal(1), uint64(C.inherited()); n <= 64; n++ {
		if ignored>>(n-1)&1 != 0 && n != syscall.SIGCHLD && n != syscall.SIGURG {
			signals = append(signals, n)
		}
	}
	return signals
}
