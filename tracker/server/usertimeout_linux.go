package server

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

// sentState is what has become of what was sent to c; ok says that it is known.
func sentState(c syscall.Conn) (s sent, ok bool) {
	raw, err := c.SyscallConn()
	if err != nil {
		return sent{}, false
	}
	var info *unix.TCPInfo
	if ctlErr := raw.Control(func(fd uintptr) {
		info, err = unix.GetsockoptTCPInfo(int(fd), unix.IPPROTO_TCP, unix.TCP_INFO)
	}); ctlErr != nil || err != nil {
		return sent{}, false
	}
	return sent{
		waits: info.Unacked > 0 || info.Notsent_bytes > 0,
		taken: info.Bytes_acked,
		heard: time.Duration(info.Last_ack_recv) * time.Millisecond,
	}, true
}
