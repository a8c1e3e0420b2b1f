package announce_test

import (
	"context"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"ntrack/announce"
	"ntrack/tracker"
)

// deadAddress makes addr an address that does not answer. It listens and accepts nothing. Its queue
// is full, so the system drops every packet that would begin a connection.
func deadAddress(t *testing.T, addr netip.AddrPort) {
	t.Helper()
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Close(fd) })
	at := &unix.SockaddrInet4{Port: int(addr.Port()), Addr: addr.Addr().As4()}
	if err := unix.Bind(fd, at); err != nil {
		t.Fatal(err)
	}
	if err := unix.Listen(fd, 0); err != nil {
		t.Fatal(err)
	}
	for range 8 { // the queue holds two
		c, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = unix.Close(c) })
		if err := unix.Connect(c, at); err != nil && err != unix.EINPROGRESS {
			t.Fatal(err)
		}
	}
	if c, err := net.DialTimeout("tcp4", addr.String(), 300*time.Millisecond); err == nil {
		_ = c.Close()
		t.Fatalf("%s answers, want none", addr)
	}
}

// If one of two addresses of a tracker does not answer, every request uses the other one.
func TestDeadAddress(t *testing.T) {
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	srv := &http.Server{Handler: tracker.Handler(&tracker.Tracker{})}
	go srv.Serve(l)
	t.Cleanup(func() { _ = srv.Close() })
	alive := l.Addr().(*net.TCPAddr).AddrPort()
	dead := netip.AddrPortFrom(netip.MustParseAddr("127.0.0.2"), alive.Port())
	deadAddress(t, dead)
	lookup := func(_ context.Context, network, host string) ([]netip.Addr, error) {
		if host != "two.example" || network == "ip6" {
			return nil, &net.DNSError{Err: "no such host", Name: host, IsNotFound: true}
		}
		return []netip.Addr{dead.Addr(), alive.Addr()}, nil
	}
	at, k := named(t, "http://two.example:"+strings.TrimPrefix(alive.String(), "127.0.0.1:")), key(t, "k")
	for name, from := range map[string]netip.AddrPort{"from any port": {}, "from one port": freeEndpoint(t)} {
		t.Run(name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
			defer cancel()
			c := announce.WithLookup(&announce.Client{From: from}, lookup)
			defer c.Close()
			r := announce.Request{Key: k, Port: 4000}
			if reply, err := c.Announce(ctx, at, r); err != nil || reply.You.String() != "127.0.0.1:4000" {
				t.Fatalf("announce: %+v, %v", reply, err)
			}
			if reply, err := c.List(ctx, at, announce.Request{Key: k}); err != nil || endpoints(reply) != "127.0.0.1:4000" {
				t.Errorf("list: %+v, %v", reply, err)
			}
			if err := c.Leave(ctx, at, r); err != nil {
				t.Errorf("leave: %v", err)
			}
			for ev, err := range c.Watch(ctx, []announce.Tracker{at}, r) {
				if err != nil || len(ev.You) != 1 || ev.You[0].String() != "127.0.0.1:4000" {
					t.Errorf("watch: %+v, %v", ev, err)
				}
				break
			}
		})
	}
}

// freeEndpoint returns a port of 127.0.0.1 on which nothing listens.
func freeEndpoint(t *testing.T) netip.AddrPort {
	t.Helper()
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).AddrPort()
}
