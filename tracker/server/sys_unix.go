//go:build unix && !linux

package server

import (
	"math"
	"net"
	"syscall"
	"time"
)

// maxFiles returns how many files this process may have open. Each connection is one.
func maxFiles() int {
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		return math.MaxInt32
	}
	return int(min(uint64(limit.Cur), math.MaxInt32))
}

// newEpollAcceptor returns nil, because only Linux has epoll.
func (s *Server) newEpollAcceptor(net.Listener) acceptor { return nil }

// setTCPOptions does nothing.
func setTCPOptions(syscall.Conn, time.Duration) {}

// setTCPUserTimeout does nothing. The system decides how long it resends lost packets.
func setTCPUserTimeout(syscall.Conn, time.Duration) {}

// getSendState returns false, because the state is not known.
func getSendState(syscall.Conn) (sendState, bool) { return sendState{}, false }

// unackedBytes returns 0, because the number is not known.
func unackedBytes(syscall.Conn) int { return 0 }
