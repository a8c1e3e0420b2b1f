//go:build !linux

package dns

import (
	"net"
	"net/netip"
)

// maxQuery is the size of the longest query that is read. On Windows a packet without room is an error
// of the socket.
const maxQuery = 1<<16 - 1

const controlSize = 0

// receiveLocal is for Linux alone. Elsewhere a server of all addresses replies from the one that the
// system chooses.
func receiveLocal(*net.UDPConn) bool { return false }

func localOf([]byte) (netip.Addr, []byte) { return netip.Addr{}, nil }
