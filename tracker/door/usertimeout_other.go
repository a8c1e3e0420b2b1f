//go:build !linux

package door

import (
	"syscall"
	"time"
)

// setUserTimeout has no counterpart here: the system decides how long it tries.
func setUserTimeout(syscall.Conn, time.Duration) {}
