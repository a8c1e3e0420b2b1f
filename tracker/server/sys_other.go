//go:build !unix

package server

import (
	"math"
	"net"
	"syscall"
	"time"
)

// maxFiles returns how many files this process may have open. No limit is known.
func maxFiles() int { return math.MaxInt32 }

// newEpollAcceptor returns nil, because only Linux has epoll.
func (s *Server) newEpollAcceptor(net.Listener) acceptor { return nil }

// setTCPOptions does nothing.
func setTCPOptions(syscall.Conn, time.Duration) {}

// setTCPUserTimeout does nothing. The system decides how long it resends lost packets.
func setTCPUserTimeout(syscall.Conn, time.Duration) {}

// getSendState returns false, because the state is not known.
func getSendState(syscall.Conn) (sendState, bool) { return sendState{}, false }

// acceptsLater returns false: which errors of the system pass is not known.
func acceptsLater(error) bool { return false }

// unackedBytes returns 0, because the number is not known.
func unackedBytes(syscall.Conn) int { return 0 }
