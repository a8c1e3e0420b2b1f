package dns_test

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/net/dns/dnsmessage"

	"ntrack/announce/wire"
	"ntrack/tracker"
	"ntrack/tracker/server/dns"
	"ntrack/tracker/store"
)

// No packet is longer than the client takes, to the byte: with names of any length, in any case, and
// whatever part of the addresses has room.
func TestPacketSizes(t *testing.T) {
	for _, zone := range []string{"p.example", "peers.example", strings.Repeat("zone.", 20) + "example"} {
		for peers := range 25 {
			var listed []string
			for i := range peers {
				if i%2 == 0 {
					listed = append(listed, fmt.Sprintf("%%s [2001:db8:1234:5678:9abc:def0:1234:%x]:4000", 0x1000+i))
				} else {
					listed = append(listed, fmt.Sprintf("%%s 192.0.2.%d:4000", i))
				}
			}
			for length := 1; length < 40; length += 3 {
				key := strings.Repeat("k", length)
				s := newServer(t)
				s.Zone = zone
				for _, p := range listed {
					_, endpoint, _ := strings.Cut(p, " ")
					list(t, s.Tracker.Store, key, netip.MustParseAddrPort(endpoint))
				}
				a := dns.NewAnswerer(s)
				for _, name := range []string{"_http._tcp." + key + "." + zone + ".", "_http._tcp." + key + "." + strings.ToUpper(zone) + "."} {
					for size, edits := range map[int][]edit{512: nil, 700: {edns(700, 0)}} {
						if reply := a.Answer(build(t, name, dnsmessage.TypeSRV, edits...), local, false); len(reply) > size {
							t.Fatalf("%s, %d peers: %d bytes for a client that takes %d", name, peers, len(reply), size)
						}
					}
				}
			}
		}
	}
}

// Over TCP a reply has a length of two bytes. A longer one would be taken for several.
func TestTCPSizes(t *testing.T) {
	zone := strings.Repeat("zone.", 20) + "example"
	for _, peers := range []int{200, 300, 350, 400, 1000} {
		s := newServer(t, many("lobby", peers)...)
		s.Zone = zone
		for _, zone := range []string{zone, strings.ToUpper(zone)} {
			reply := dns.NewAnswerer(s).Answer(build(t, "_http._tcp.lobby."+zone+".", dnsmessage.TypeSRV), local, true)
			if len(reply) > 1<<16-1 || len(reply) < 200*100 {
				t.Errorf("%d peers: %d bytes", peers, len(reply))
			}
		}
	}
}

// A countingStore counts the looks.
type countingStore struct {
	store.Store
	looks int
}

func (s *countingStore) Look(ctx context.Context, key []byte, asker netip.Addr, want store.Want, dst []wire.Peer) ([]wire.Peer, store.Result, error) {
	s.looks++
	return s.Store.Look(ctx, key, asker, want, dst)
}

// An answer that has all peers, or as many as fit, takes one look.
func TestLooksOnce(t *testing.T) {
	for peers, typ := range map[int]dnsmessage.Type{0: dnsmessage.TypeA, 5: dnsmessage.TypeA, 6: dnsmessage.TypeAAAA, 1000: dnsmessage.TypeA} {
		counting := &countingStore{Store: newServer(t, many("lobby", peers)...).Tracker.Store}
		s := &dns.Server{Tracker: &tracker.Tracker{Store: counting}, Zone: "peers.example"}
		if asks(t, s, public, false, build(t, "lobby.peers.example.", typ)); counting.looks != 1 {
			t.Errorf("%d peers, %v: %d looks", peers, typ, counting.looks)
		}
	}
}

// A listener has connections from any address, and errors.
type listener struct {
	conns chan any // of *farConn or error
	ended chan struct{}
}

func (l *listener) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		if err, ok := c.(error); ok {
			return nil, err
		}
		return c.(*farConn), nil
	case <-l.ended:
		return nil, net.ErrClosed
	}
}

func (l *listener) Close() error {
	select {
	case <-l.ended:
	default:
		close(l.ended)
	}
	return nil
}

func (l *listener) Addr() net.Addr { return &net.TCPAddr{} }

// A farConn is a connection from any address.
type farConn struct {
	net.Conn
	from   netip.AddrPort
	closed atomic.Bool
}

func (c *farConn) Close() error {
	c.closed.Store(true)
	return c.Conn.Close()
}

func (c *farConn) RemoteAddr() net.Addr { return net.TCPAddrFromAddrPort(c.from) }

// serveFrom serves connections that a test makes up.
func serveFrom(t *testing.T, s *dns.Server) (l *listener, udp *net.UDPConn, ended chan error) {
	t.Helper()
	udp, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	l, ended = &listener{make(chan any), make(chan struct{})}, make(chan error, 1)
	go func() { ended <- s.Serve(udp, l) }()
	t.Cleanup(func() { _ = s.Close() })
	return l, udp, ended
}

// An IPv6 network has as many connections as one IPv4 address, whichever of its addresses they come from.
// A network that has too many loses one of its own.
func TestConnsOfNetwork(t *testing.T) {
	s := newServer(t)
	l, _, _ := serveFrom(t, s)
	var clients []net.Conn
	dial := func(text string, want int) *farConn {
		t.Helper()
		client, end := net.Pipe()
		clients = append(clients, client)
		c := &farConn{Conn: end, from: netip.AddrPortFrom(netip.MustParseAddr(text), 1)}
		l.conns <- c
		// The server takes this once it has started c. It says nothing about the next one.
		l.conns <- error(&net.OpError{Op: "accept", Err: os.NewSyscallError("accept4", syscall.EMFILE)})
		if n := s.Stats().Conns; n != want {
			t.Fatalf("%s: %d connections are open, want %d", text, n, want)
		}
		return c
	}
	first := dial("198.51.100.1", 1)
	second := dial("2001:db8::1", 2)
	for i := range dns.MaxPerAddr - 1 {
		dial(fmt.Sprintf("2001:db8::%x:0:0:1", i), 3+i)
	}
	dial("2001:db8::ffff:ffff:ffff:ffff", dns.MaxPerAddr+1)
	if first.closed.Load() || !second.closed.Load() {
		t.Error("a network has the connection of another one closed, or not its oldest one")
	}
	dial("2001:db8:0:1::1", dns.MaxPerAddr+2)
	dial("2001:db8::1", dns.MaxPerAddr+2)
	for i := range dns.MaxPerAddr {
		dial("::ffff:192.0.2.1", dns.MaxPerAddr+3+i)
	}
	dial("192.0.2.1", 2*dns.MaxPerAddr+2)
	dial("192.0.2.2", 2*dns.MaxPerAddr+3)
	// What has ended counts no longer.
	for _, c := range clients {
		_ = c.Close()
	}
	until(t, func() bool { return s.Stats().Conns == 0 })
	for i := range dns.MaxPerAddr {
		dial("192.0.2.1", i+1)
	}
}

// A connection that waits for a query makes room before those that are served, however long these take.
func TestIdleMakesRoom(t *testing.T) {
	s := newServer(t)
	s.SetTimes(time.Minute, 1) // whoever is served may be evicted, too
	l, _, _ := serveFrom(t, s)
	query := build(t, "peers.example.", dnsmessage.TypeA)
	dial := func() (net.Conn, *farConn) {
		client, end := net.Pipe()
		t.Cleanup(func() { _ = client.Close() })
		c := &farConn{Conn: end, from: netip.MustParseAddrPort("192.0.2.1:1")}
		l.conns <- c
		return client, c
	}
	var served []*farConn
	for range dns.MaxPerAddr - 1 {
		client, c := dial()
		send(t, client, query) // and does not read the reply
		served = append(served, c)
	}
	until(t, func() bool { return s.Stats().Queries["nodata"] == dns.MaxPerAddr-1 })
	_, idle := dial()
	dial()
	until(t, idle.closed.Load)
	for i, c := range served {
		if c.closed.Load() {
			t.Errorf("connection %d, which is served, has made room", i)
		}
	}
}

// A socket of which every read fails ends its server.
func TestReadsFail(t *testing.T) {
	s := newServer(t)
	_, udp, ended := serveFrom(t, s)
	if got := show(t, exchange(t, "udp", udp.LocalAddr().String(), build(t, "peers.example.", dnsmessage.TypeA))); got != noData {
		t.Fatal(got)
	}
	_ = udp.SetReadDeadline(time.Unix(1, 0))
	select {
	case err := <-ended:
		if !isTimeout(err) {
			t.Error(err)
		}
	case <-time.After(patience):
		t.Error("it goes on")
	}
}
