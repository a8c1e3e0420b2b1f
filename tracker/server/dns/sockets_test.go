package dns_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/net/dns/dnsmessage"

	"ntrack/announce/wire"
	"ntrack/tracker"
	"ntrack/tracker/server/dns"
	"ntrack/tracker/store"
	"ntrack/tracker/store/memory"
)

// Nothing of a server is left after Close.
func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m, goleak.IgnoreAnyFunction("ntrack/tracker/store/memory.(*Store).sweep"),
		goleak.IgnoreAnyFunction("ntrack/tracker/store/memory.(*Store).sweep-fm"))
}

// patience is how long a test waits for what has to happen.
const patience = 20 * time.Second

func dial(t testing.TB, network, at string) net.Conn {
	t.Helper()
	c, err := net.Dial(network, at)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	_ = c.SetDeadline(time.Now().Add(patience))
	return c
}

// works checks that a connection is served.
func works(t testing.TB, c net.Conn) {
	t.Helper()
	send(t, c, build(t, "peers.example.", dnsmessage.TypeA))
	if got := show(t, receive(t, c)); got != noData {
		t.Fatal(got)
	}
}

// ends checks that the server ends a connection without a reply.
func ends(t testing.TB, c net.Conn) {
	t.Helper()
	if n, err := c.Read(make([]byte, 1)); n > 0 || err == nil || isTimeout(err) {
		t.Fatalf("the connection is open: %d bytes, %v", n, err)
	}
}

func isTimeout(err error) bool { e, ok := err.(net.Error); return ok && e.Timeout() }

// until waits until holds returns true.
func until(t testing.TB, holds func() bool) {
	t.Helper()
	for deadline := time.Now().Add(patience); !holds(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("it does not happen")
		}
	}
}

// A client may send many queries before it reads, byte by byte or all at once. The replies come in
// order.
func TestPipelining(t *testing.T) {
	s := newServer(t, many("lobby", 500)...)
	c := dial(t, "tcp", serve(t, s, "127.0.0.1"))
	var all []byte
	const n = 200
	for i := range n {
		q := build(t, "lobby.peers.example.", dnsmessage.TypeA, patch(0, byte(i), 7))
		all = append(binary.BigEndian.AppendUint16(all, uint16(len(q))), q...)
	}
	go func() {
		for _, b := range all[:100] {
			_, _ = c.Write([]byte{b})
		}
		_, _ = c.Write(all[100:])
	}()
	for i := range n {
		if reply := receive(t, c); len(reply) < 500*16 || reply[0] != byte(i) || reply[1] != 7 {
			t.Fatalf("reply %d is %x", i, reply[:12])
		}
	}
	if st := s.Stats(); st.Conns != 1 || st.Queries["answered"] != n {
		t.Errorf("%+v", st)
	}
}

// A client that is slow loses its connection, and no other one.
func TestSlowClients(t *testing.T) {
	s := newServer(t, many("lobby", 1000)...)
	s.SetTimes(100*time.Millisecond, time.Minute)
	at := serve(t, s, "127.0.0.1")
	q := build(t, "lobby.peers.example.", dnsmessage.TypeA)
	framed := append(binary.BigEndian.AppendUint16(nil, uint16(len(q))), q...)
	for name, sent := range map[string][]byte{
		"nothing": {}, "half a length": framed[:1], "a length": framed[:2], "half a query": framed[:20], "too long a query": {0xff, 0xff},
		"a byte more than there is room for": append(binary.BigEndian.AppendUint16(nil, uint16(min(dns.MaxQuery+1, 0xffff))), make([]byte, dns.MaxQuery+1)...),
		"a reply":                            {0, 12, 0, 0, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0},
	} {
		c := dial(t, "tcp", at)
		if _, err := c.Write(sent); err != nil {
			t.Fatal(name, err)
		}
		ends(t, c)
	}
	// One that does not read gets what the system keeps for it, and is closed then.
	c := dial(t, "tcp", at)
	for {
		if _, err := c.Write(bytes.Repeat(framed, 100)); err != nil {
			break
		}
	}
	until(t, func() bool { return s.Stats().Conns == 0 })
	works(t, dial(t, "tcp", at))
}

// If there are too many connections, the one that has waited longest makes room.
func TestManyConns(t *testing.T) {
	for _, tt := range []struct {
		name   string
		exempt []netip.Prefix
		most   int
	}{
		{"of an address", []netip.Prefix{}, dns.MaxPerAddr},
		{"in all", nil, dns.MaxConns},
	} {
		s := newServer(t)
		s.SetTimes(time.Minute, time.Minute)
		s.Tracker.Exempt = tt.exempt
		at := serve(t, s, "127.0.0.1")
		var conns []net.Conn
		for i := range tt.most {
			c := dial(t, "tcp", at)
			works(t, c)
			conns = append(conns, c)
			until(t, func() bool { return s.IdleConns() == i+1 })
		}
		works(t, conns[0])
		until(t, func() bool { return s.IdleConns() == tt.most })
		last := dial(t, "tcp", at)
		works(t, last)
		ends(t, conns[1])
		for _, i := range []int{0, 2, tt.most - 1} {
			works(t, conns[i])
		}
		if n := s.Stats().Conns; n != tt.most {
			t.Errorf("%s: %d connections, want %d", tt.name, n, tt.most)
		}
	}
}

// Over TCP a client above its rate waits.
func TestPace(t *testing.T) {
	s := newServer(t, "lobby 192.0.2.1:1")
	s.Tracker.Exempt = []netip.Prefix{}
	c := dial(t, "tcp", serve(t, s, "127.0.0.1"))
	q := build(t, "peers.example.", dnsmessage.TypeSOA)
	framed := append(binary.BigEndian.AppendUint16(nil, uint16(len(q))), q...)
	const n = 5500 // half a second above the burst
	go func() { _, _ = c.Write(bytes.Repeat(framed, n)) }()
	start := time.Now()
	for range n {
		if got := receive(t, c); got[3]&15 != 0 || got[2]&2 != 0 {
			t.Fatal(show(t, got))
		}
	}
	if d := time.Since(start); d < 400*time.Millisecond {
		t.Errorf("%d queries took %v", n, d)
	}
}

// A farStore waits until it may answer.
type farStore struct {
	store.Store
	calls  chan struct{} // gets a value for each look that waits
	answer chan struct{} // closed once it answers
}

func newFarStore(t testing.TB) *farStore {
	s := &farStore{Store: memory.New(), calls: make(chan struct{}, 10_000), answer: make(chan struct{})}
	list(t, s.Store, "lobby", netip.MustParseAddrPort("192.0.2.1:1"))
	return s
}

func (s *farStore) NeverBlocks() bool { return false }

func (s *farStore) Look(ctx context.Context, key []byte, asker netip.Addr, want store.Want, dst []wire.Peer) ([]wire.Peer, store.Result, error) {
	s.calls <- struct{}{}
	select {
	case <-s.answer:
		return s.Store.Look(ctx, key, asker, want, dst)
	case <-ctx.Done():
		return dst, store.Result{}, ctx.Err()
	}
}

// While a store is slow, queries wait for it, but no more than a limit. What needs no store is answered.
func TestFarStore(t *testing.T) {
	far := newFarStore(t)
	s := &dns.Server{Tracker: &tracker.Tracker{Store: far}, Zone: "peers.example"}
	s.SetTimes(time.Minute, time.Minute)
	at := serve(t, s, "127.0.0.1")
	q := build(t, "lobby.peers.example.", dnsmessage.TypeA)
	udp, tcp := dial(t, "udp", at), dial(t, "tcp", at)
	send(t, tcp, q)
	<-far.calls // or it would count as one of those below
	for range dns.MaxWaiting {
		if _, err := udp.Write(q); err != nil {
			t.Fatal(err)
		}
		<-far.calls // or the system may drop packets
	}
	if got := show(t, exchange(t, "udp", at, q)); got != "ServerFailure" {
		t.Errorf("one too many: %s", got)
	}
	if len(far.calls) > 0 {
		t.Error("it has asked the store")
	}
	if got := show(t, exchange(t, "udp", at, build(t, "peers.example.", dnsmessage.TypeA))); got != noData {
		t.Errorf("without the store: %s", got)
	}
	close(far.answer)
	const answer = "Success aa; lobby.peers.example. 5 A 192.0.2.1"
	if got := show(t, receive(t, tcp)); got != answer {
		t.Error(got)
	}
	udp = dial(t, "udp", at) // not the replies to the queries above
	for range 2 * dns.MaxWaiting {
		if _, err := udp.Write(q); err != nil {
			t.Fatal(err)
		}
		reply := make([]byte, 512)
		n, err := udp.Read(reply)
		if err != nil {
			t.Fatal(err)
		}
		if got := show(t, reply[:n]); got != answer && got != "ServerFailure" { // while those above end
			t.Fatal(got)
		}
	}
	until(t, func() bool { return show(t, exchange(t, "udp", at, q)) == answer })
}

// Queries that wait for the store at the same time do not change each other's answers.
func TestFarStoreAnswersApart(t *testing.T) {
	far := newFarStore(t)
	list(t, far.Store, "hall", netip.MustParseAddrPort("192.0.2.2:1"))
	s := &dns.Server{Tracker: &tracker.Tracker{Store: far}, Zone: "peers.example"}
	s.SetTimes(time.Minute, time.Minute)
	at := serve(t, s, "127.0.0.1")
	var clients []net.Conn
	for i := range 20 {
		c := dial(t, "udp", at)
		if _, err := c.Write(build(t, []string{"lobby", "hall"}[i%2]+".peers.example.", dnsmessage.TypeA)); err != nil {
			t.Fatal(err)
		}
		<-far.calls
		clients = append(clients, c)
	}
	close(far.answer)
	for i, c := range clients {
		reply := make([]byte, 512)
		n, err := c.Read(reply)
		if err != nil {
			t.Fatal(err)
		}
		want := []string{"Success aa; lobby.peers.example. 5 A 192.0.2.1", "Success aa; hall.peers.example. 5 A 192.0.2.2"}[i%2]
		if got := show(t, reply[:n]); got != want {
			t.Errorf("%s\nwant %s", got, want)
		}
	}
}

// A store that takes too long has failed.
func TestStoreTime(t *testing.T) {
	far := newFarStore(t)
	s := &dns.Server{Tracker: &tracker.Tracker{Store: far}, Zone: "peers.example"}
	s.SetTimes(time.Minute, 10*time.Millisecond)
	at := serve(t, s, "127.0.0.1")
	for _, network := range []string{"udp", "tcp"} {
		if got := show(t, exchange(t, network, at, build(t, "lobby.peers.example.", dnsmessage.TypeA))); got != "ServerFailure" {
			t.Error(got)
		}
	}
}

// Close ends queries that wait, and connections.
func TestClose(t *testing.T) {
	far := newFarStore(t)
	s := &dns.Server{Tracker: &tracker.Tracker{Store: far}, Zone: "peers.example"}
	s.SetTimes(time.Minute, time.Minute)
	at := serve(t, s, "127.0.0.1")
	q := build(t, "lobby.peers.example.", dnsmessage.TypeA)
	udp, tcp, idle := dial(t, "udp", at), dial(t, "tcp", at), dial(t, "tcp", at)
	works(t, idle)
	send(t, tcp, q)
	if _, err := udp.Write(q); err != nil {
		t.Fatal(err)
	}
	<-far.calls
	<-far.calls
	_ = s.Close()
	for _, c := range []net.Conn{tcp, idle} {
		_, _ = io.Copy(io.Discard, c)
		if _, err := c.Read(make([]byte, 1)); isTimeout(err) {
			t.Error("a connection is open")
		}
	}
	if n := s.Stats().Conns; n != 0 {
		t.Errorf("%d connections", n)
	}
	_ = s.Close()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	pc, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Serve(pc.(*net.UDPConn), l); err != dns.ErrClosed {
		t.Error(err)
	}
}

// If one of its sockets dies, a server ends with the error.
func TestSocketDies(t *testing.T) {
	for _, dies := range []string{"udp", "tcp"} {
		s := newServer(t)
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		pc, err := net.ListenPacket("udp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		ended := make(chan error, 1)
		go func() { ended <- s.Serve(pc.(*net.UDPConn), l) }()
		works(t, dial(t, "tcp", l.Addr().String()))
		if dies == "udp" {
			_ = pc.Close()
		} else {
			_ = l.Close()
		}
		if err := <-ended; err == nil || err == dns.ErrClosed {
			t.Errorf("%s: %v", dies, err)
		}
		_ = s.Close()
	}
}

// A panickingStore panics at one key.
type panickingStore struct{ store.Store }

func (s *panickingStore) Look(ctx context.Context, key []byte, asker netip.Addr, want store.Want, dst []wire.Peer) ([]wire.Peer, store.Result, error) {
	if string(key) == "secret" {
		panic("at the disco")
	}
	return s.Store.Look(ctx, key, asker, want, dst)
}

// A panic costs one query, and the log does not have its name.
func TestPanic(t *testing.T) {
	var log bytes.Buffer
	table := memory.New()
	list(t, table, "lobby", netip.MustParseAddrPort("192.0.2.1:1"))
	s := &dns.Server{Tracker: &tracker.Tracker{Store: &panickingStore{table}}, Zone: "peers.example", Log: slog.New(slog.NewTextHandler(&log, nil))}
	at := serve(t, s, "127.0.0.1")
	udp, tcp := dial(t, "udp", at), dial(t, "tcp", at)
	for range 10 {
		if _, err := udp.Write(build(t, "secret.peers.example.", dnsmessage.TypeA)); err != nil {
			t.Fatal(err)
		}
	}
	until(t, func() bool { return s.Stats().Panics == 10 })
	send(t, tcp, build(t, "secret.peers.example.", dnsmessage.TypeA))
	ends(t, tcp)
	for _, network := range []string{"udp", "tcp"} {
		if got := show(t, exchange(t, network, at, build(t, "lobby.peers.example.", dnsmessage.TypeA))); got != "Success aa; lobby.peers.example. 5 A 192.0.2.1" {
			t.Error(got)
		}
	}
	_ = s.Close()
	if text := log.String(); strings.Count(text, "at the disco") < 11 || strings.Contains(text, "secret") {
		t.Error(text)
	}
}
