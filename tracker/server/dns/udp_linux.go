package dns

import (
	"net"
	"net/netip"

	"golang.org/x/sys/unix"
)

// maxQuery is the size of the longest query that is read. A query has one name of 255 bytes, and options
// that take some dozens.
const maxQuery = 4096

// controlSize has room for the control data of both families.
const controlSize = 128

// receiveLocal makes the system say to which address each packet came, if the socket has all addresses.
func receiveLocal(udp *net.UDPConn) bool {
	if addrOf(udp.LocalAddr()).IsValid() {
		return false
	}
	raw, err := udp.SyscallConn()
	if err != nil {
		return false
	}
	var err4, err6 error
	if err := raw.Control(func(fd uintptr) {
		err4 = unix.SetsockoptInt(int(fd), unix.IPPROTO_IP, unix.IP_PKTINFO, 1)
		err6 = unix.SetsockoptInt(int(fd), unix.IPPROTO_IPV6, unix.IPV6_RECVPKTINFO, 1)
	}); err != nil {
		return false
	}
	return err4 == nil || err6 == nil
}

// localOf returns the address to which a packet came, and the control data for a reply from there. They
// are a part of control.
func localOf(control []byte) (netip.Addr, []byte) {
	for rest := control; len(rest) >= unix.CmsgLen(0); {
		h, data, next, err := unix.ParseOneSocketControlMessage(rest)
		if err != nil {
			break
		}
		this := rest[:len(rest)-len(next)]
		rest = next
		switch {
		case h.Level == unix.IPPROTO_IP && h.Type == unix.IP_PKTINFO && len(data) >= 12:
			// An index of the interface, the address of this machine, and that of the packet, which may
			// be a broadcast. The system chooses the interface of the reply.
			clear(data[:4])
			return netip.AddrFrom4([4]byte(data[4:])), this
		case h.Level == unix.IPPROTO_IPV6 && h.Type == unix.IPV6_PKTINFO && len(data) >= 20:
			a := netip.AddrFrom16([16]byte(data)).Unmap()
			if a.IsMulticast() {
				return netip.Addr{}, nil
			}
			if !a.IsLinkLocalUnicast() {
				clear(data[16:20])
			}
			return a, this
		}
	}
	return netip.Addr{}, nil
}
