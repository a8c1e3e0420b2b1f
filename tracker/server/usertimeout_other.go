//go:build !linux

package server

import (
	"syscall"
	"time"
)

// setUserTimeout has no counterpart here: the system decides how long it tries.
func setUserTimeout(syscall.Conn, time.Duration) {}

// sentState is not known here.
func sentState(syscall.Conn) (sent, bool) { return sent{}, false }
