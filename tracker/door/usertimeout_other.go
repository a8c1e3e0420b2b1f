//go:build !linux

package door

import (
	"net"
	"time"
)

// setUserTimeout has no counterpart here: the system decides how long it tries.
func setUserTimeout(*net.TCPConn, time.Duration) {}
