package process

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strconv"
	"time"
)

// AwaitReady calls ready again and again, at most a second apart, until ready returns true. If that
// takes longer than patience, AwaitReady calls late once and continues. AwaitReady returns false if ctx
// ends first.
func AwaitReady(ctx context.Context, ready func(context.Context) bool, patience time.Duration, late func()) bool {
	patienceEnds := time.After(patience)
	for pause := 10 * time.Millisecond; !ready(ctx); {
		select {
		case <-ctx.Done():
			return false
		case <-patienceEnds:
			late()
		case <-time.After(pause):
			pause = min(pause*3/2, time.Second)
		}
	}
	return ctx.Err() == nil
}

// AcceptsTCP reports whether a program accepts TCP connections on the port, at one or more addresses
// of this machine.
func AcceptsTCP(ctx context.Context, port uint16) bool {
	d := net.Dialer{Timeout: time.Second}
	addrs := []netip.Addr{netip.AddrFrom4([4]byte{127, 0, 0, 1}), netip.IPv6Loopback()}
	for _, a := range append(addrs, LocalAddrs()...) {
		if c, err := d.DialContext(ctx, "tcp", netip.AddrPortFrom(a, port).String()); err == nil {
			_ = c.Close()
			return true
		}
	}
	return false
}

// BoundUDP reports whether a socket on this machine is bound to the UDP port. It sends no datagram,
// because a program might think that the datagram comes from a peer.
//
// On Linux, BoundUDP reads the list of sockets. On other systems it tries to bind the port, which
// fails if another socket is bound to it. No program can bind the port in the microsecond that this
// takes.
func BoundUDP(_ context.Context, port uint16) bool {
	hasList := false
	for _, name := range []string{"/proc/net/udp", "/proc/net/udp6"} {
		table, err := os.ReadFile(name)
		hasList = hasList || err == nil
		for line := range bytes.Lines(table) { // the columns are sl local_address ..., as in "7: 0100007F:0FA0 ..."
			if f := bytes.Fields(line); len(f) > 1 && bytes.HasSuffix(f[1], fmt.Appendf(nil, ":%04X", port)) {
				return true
			}
		}
	}
	if hasList {
		return false
	}
	c, err := net.ListenPacket("udp", ":"+strconv.Itoa(int(port)))
	if err == nil {
		_ = c.Close()
	}
	return err != nil
}

// LocalAddrs returns the addresses of this machine. Link-local IPv6 addresses have a zone.
func LocalAddrs() []netip.Addr {
	var addrs []netip.Addr
	all, _ := net.Interfaces()
	for _, i := range all {
		own, _ := i.Addrs()
		for _, a := range own {
			n, ok := a.(*net.IPNet)
			if !ok {
				continue
			}
			a, _ := netip.AddrFromSlice(n.IP)
			if a = a.Unmap(); a.Is6() && a.IsLinkLocalUnicast() {
				a = a.WithZone(i.Name)
			}
			addrs = append(addrs, a)
		}
	}
	return addrs
}
