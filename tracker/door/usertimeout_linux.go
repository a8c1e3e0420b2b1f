package door

import (
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// setUserTimeout is TCP_USER_TIMEOUT (RFC 5482), where c is TCP.
func setUserTimeout(c syscall.Conn, d time.Duration) {
	raw, err := c.SyscallConn()
	if err != nil {
		return
	}
	_ = raw.Control(func(fd uintptr) {
		_ = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, int(d.Milliseconds()))
	})
}
