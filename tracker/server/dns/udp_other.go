//go:build !linux

package dns

import (
	"net"
	"net/netip"
)

const controlSize = 0

// receiveLocal is for Linux alone. Elsewhere a server of all addresses replies from the one that the
// system chooses.
func receiveLocal(*net.UDPConn) bool { return false }

func localOf([]byte) (netip.Addr, []byte) { return netip.Addr{}, nil }
