package commands

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

// readiness is how to tell that a service can be reached on this machine. The zero readiness is
// that it always can.
type readiness struct {
	port     uint16
	can      func(ctx context.Context, port uint16) bool
	not      string        // what to say of the port before
	patience time.Duration // after which that is worth saying
}

// parseReadiness reads the value of --ready.
func parseReadiness(s string, port uint16) (readiness, error) {
	switch s {
	case "none":
		return readiness{}, nil
	case "udp":
		return readiness{port, boundUDP, "is not bound yet", 30 * time.Second}, nil
	}
	d, err := parseDuration(s)
	if err != nil || d <= 0 {
		return readiness{}, fmt.Errorf("--ready %q: a duration such as 30s, udp or none", shown(s))
	}
	return readiness{port, acceptsTCP, "accepts no connections yet (over UDP it needs --ready udp)", d}, nil
}

// wait is true once the service can be reached, and false when ctx has ended before. When patience
// is over it says so, and goes on.
func (r readiness) wait(ctx context.Context, note func(format string, args ...any)) bool {
	if r.can == nil {
		return true
	}
	impatient := time.After(r.patience)
	for pause := 10 * time.Millisecond; ; pause = min(pause*3/2, time.Second) {
		if r.can(ctx, r.port) {
			return ctx.Err() == nil
		}
		again := time.After(pause)
		for waiting := true; waiting; {
			select {
			case <-ctx.Done():
				return false
			case <-impatient:
				note("port %d %s after %v: it is not listed so far", r.port, r.not, r.patience)
			case <-again:
				waiting = false
			}
		}
	}
}

// acceptsTCP says whether something on this machine accepts connections at the port. It may have
// bound any of the machine's addresses, or all.
func acceptsTCP(ctx context.Context, port uint16) bool {
	d := net.Dialer{Timeout: time.Second}
	addrs := []netip.Addr{loopback4(), netip.IPv6Loopback()}
	for _, a := range append(addrs, localAddresses()...) {
		if c, err := d.DialContext(ctx, "tcp", netip.AddrPortFrom(a, port).String()); err == nil {
			_ = c.Close()
			return true
		}
	}
	return false
}

// boundUDP says whether a socket of this machine is bound to the port. UDP has nothing to ask for,
// and a datagram might be taken for the first of a real peer: Linux has a list. Elsewhere whether
// binding fails tells, at the price that the service cannot bind in the same microsecond.
func boundUDP(_ context.Context, port uint16) bool {
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
