package dns_test

import (
	"net"
	"testing"
	"time"

	"golang.org/x/net/dns/dnsmessage"
)

// A server at all addresses replies from the address to which a query came, and says that it is there.
func TestAllAddresses(t *testing.T) {
	for _, host := range []string{"", "0.0.0.0", "::"} {
		_, port, _ := net.SplitHostPort(serve(t, newServer(t), host))
		for _, addr := range []string{"127.0.0.1", "127.0.0.2", "::1"} {
			if host == "0.0.0.0" && addr == "::1" {
				continue
			}
			typ, kind := dnsmessage.TypeA, "A"
			if addr == "::1" {
				typ, kind = dnsmessage.TypeAAAA, "AAAA"
			}
			want := "Success aa; ns.peers.example. 300 " + kind + " " + addr
			q := build(t, "ns.peers.example.", typ)
			if got := show(t, exchange(t, "tcp", net.JoinHostPort(addr, port), q)); got != want {
				t.Errorf("listening at %q: TCP to %s: %s", host, addr, got)
			}
			// The socket is connected, so it takes nothing from other addresses. It is at an address from
			// which the system would not reply by itself.
			dialer := net.Dialer{LocalAddr: &net.UDPAddr{IP: net.IPv4(127, 0, 0, 3)}}
			if addr == "::1" {
				dialer.LocalAddr = nil
			}
			c, err := dialer.Dial("udp", net.JoinHostPort(addr, port))
			if err != nil {
				t.Fatal(err)
			}
			_ = c.SetDeadline(time.Now().Add(patience))
			reply := make([]byte, 512)
			if _, err := c.Write(q); err != nil {
				t.Fatal(err)
			}
			n, err := c.Read(reply)
			_ = c.Close()
			if err != nil {
				t.Errorf("listening at %q: UDP to %s: %v", host, addr, err)
			} else if got := show(t, reply[:n]); got != want {
				t.Errorf("listening at %q: UDP to %s: %s", host, addr, got)
			}
		}
	}
}
