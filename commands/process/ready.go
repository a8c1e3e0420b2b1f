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

// AwaitReady polls ready until it is true, and returns false if ctx ends first. If that takes longer
// than patience, AwaitReady calls late once and goes on.
func AwaitReady(ctx context.Context, ready func(context.Context) bool, patience time.Duration, late func()) bool {
	impatient := time.After(patience)
	for pause := 10 * time.Millisecond; !ready(ctx); {
		select {
		case <-ctx.Done():
			return false
		case <-impatient:
			late()
		case <-time.After(pause):
			pause = min(pause*3/2, time.Second)
		}
	}
	return ctx.Err() == nil
}

// AcceptsTCP reports whether a program on this machine accepts connections at the port, at any
// address of the machine.
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

// BoundUDP reports whether a socket of this machine is bound to the port. It sends no datagram,
// because the program could mistake it for a peer's. Linux has a list of sockets. Other systems
// refuse to bind a port twice, so BoundUDP tries to bind it: in that microsecond the program cannot.
func BoundUDP(_ context.Context, port uint16) bool {
	listed := false
	for _, name := range []string{"/proc/net/udp", "/proc/net/udp6"} {
		table, err := os.ReadFile(name)
		listed = listed || err == nil
		for line := range bytes.Lines(table) { // sl local_address rem_address ...: "7: 0100007F:0FA0 ..."
			if f := bytes.Fields(line); len(f) > 1 && bytes.HasSuffix(f[1], fmt.Appendf(nil, ":%04X", port)) {
				return true
			}
		}
	}
	if listed {
		return false
	}
	c, err := net.ListenPacket("udp", ":"+strconv.Itoa(int(port)))
	if err == nil {
		_ = c.Close()
	}
	return err != nil
}

// LocalAddrs are the addresses of this machine. Link-local IPv6 addresses have their zones.
func LocalAddrs() []netip.Addr {
	var addrs []netip.Addr
	all, _ := net.Interfaces()
	for _, i := range all {
		of, _ := i.Addrs()
		for _, a := range of {
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
