//go:build cgo && unix

package process

import (
	"os"
	"syscall"
)

// Go's runtime installs its own signal handlers before any Go code runs. It remembers only for SIGHUP
// and SIGINT whether the signal was ignored before. A constructor in C runs earlier than the runtime
// and can look at all signals.

/*
#include <signal.h>

static unsigned long long ignored; // bit 0 is signal 1

__attribute__((constructor)) static void find_ignored(void) {
	for (int n = 1; n <= 64; n++) {
		struct sigaction now;
		if (sigaction(n, 0, &now) == 0 && now.sa_handler == SIG_IGN)
			ignored |= 1ULL << (n - 1);
	}
}

static unsigned long long ignored_at_start(void) { return ignored; }
*/
import "C"

// IgnoredAtStart returns the signals that were ignored when this process started, except two. This
// process needs SIGCHLD to learn how a child ended, and no program may expect it to be ignored (POSIX
// does not promise that exec keeps that). Go's runtime uses SIGURG.
func IgnoredAtStart() []os.Signal {
	var signals []os.Signal
	for n, ignored := syscall.Signal(1), uint64(C.ignored_at_start()); n <= 64; n++ {
		if ignored>>(n-1)&1 != 0 && n != syscall.SIGCHLD && n != syscall.SIGURG {
			signals = append(signals, n)
		}
	}
	return signals
}
