package dns_test

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/dns/dnsmessage"

	"ntrack/tracker"
	"ntrack/tracker/server/dns"
	"ntrack/tracker/store"
	"ntrack/tracker/store/memory"
)

// attacked serves a tracker whose clients all have limits, and returns where.
func attacked(t *testing.T, table store.Store) (s *dns.Server, at string) {
	t.Helper()
	s = &dns.Server{Tracker: &tracker.Tracker{Store: table, Exempt: []netip.Prefix{}}}
	at = serve(t, s, "127.0.0.1")
	t.Cleanup(func() {
		if n := s.Stats().Panics; n > 0 {
			t.Errorf("%d panics", n)
		}
	})
	return s, at
}

// listMany lists peers at public addresses. Every fourth one has an IPv6 address.
func listMany(t *testing.T, table store.Store, key string, peers int) {
	t.Helper()
	for i := range peers {
		a := netip.AddrFrom4([4]byte{11, byte(i >> 16), byte(i >> 8), byte(i)})
		if i%4 == 3 {
			a = netip.AddrFrom16([16]byte{0x20, 1, 0xd, 0xb8, 12: 0, 13: byte(i >> 16), 14: byte(i >> 8), 15: byte(i)})
		}
		list(t, table, key, netip.AddrPortFrom(a, 4000))
	}
}

// A source is a client with an address of its own.
type source struct {
	t *testing.T
	net.Conn
}

func from(t *testing.T, network, address, to string) *source {
	t.Helper()
	local := net.Addr(&net.UDPAddr{IP: net.ParseIP(address)})
	if network == "tcp" {
		local = &net.TCPAddr{IP: net.ParseIP(address)}
	}
	c, err := (&net.Dialer{LocalAddr: local}).Dial(network, to)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	_ = c.SetDeadline(time.Now().Add(30 * time.Second))
	return &source{t, c}
}

func (s *source) receive() (m dnsmessage.Message, size int) {
	s.t.Helper()
	b := make([]byte, 1<<16)
	n, err := s.Read(b)
	if err == nil {
		err = m.Unpack(b[:n])
	}
	if err != nil {
		s.t.Fatal(err)
	}
	return m, n
}

func (s *source) ask(query []byte) (m dnsmessage.Message, size int) {
	s.t.Helper()
	if _, err := s.Write(query); err != nil {
		s.t.Fatal(err)
	}
	return s.receive()
}

// Whatever comes, the server goes on, and no reply is longer than a packet that passes all networks.
// Replies to replies would go on for ever, so these get none.
func TestHostilePackets(t *testing.T) {
	table := memory.New()
	listMany(t, table, "web", 200)
	s, at := attacked(t, table)
	good := build(t, "web.peers.example.", dnsmessage.TypeA, edns(4096, 0))
	loop := append([]byte{0x12, 0x34, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0}, 0xc0, 12, 0, 1, 0, 1)
	hostile := [][]byte{{0}, good[:11], loop,
		append(append([]byte{}, loop[:12]...), 0xc0, 14, 0xc0, 12, 0, 1, 0, 1), // two pointers to each other
		append(append([]byte{}, loop[:12]...), 0xff, 0xff, 0, 1, 0, 1),
		append(append([]byte{}, loop[:12]...), strings.Repeat("\x3f"+strings.Repeat("a", 63), 5)+"\x00\x00\x01\x00\x01"...),
		append(append([]byte{}, good...), make([]byte, 2000)...),
	}
	for i := range len(good) {
		hostile = append(hostile, good[:i])
		for range 5 {
			b := append([]byte{}, good...)
			b[i] = byte(rand.Uint32())
			hostile = append(hostile, b)
		}
		counts := append([]byte{}, good...)
		binary.BigEndian.PutUint16(counts[4+2*(i%4):], uint16(rand.Uint32()))
		hostile = append(hostile, counts)
	}
	for i, b := range hostile {
		c := from(t, "udp", fmt.Sprintf("127.2.%d.%d", i>>8, i&255), at)
		if len(b) == 0 {
			continue
		}
		if _, err := c.Write(b); err != nil {
			t.Fatal(err)
		}
		if len(b) < 12 || b[2]&0x80 != 0 {
			continue
		}
		reply, n := c.receive()
		if n > 1232 || !reply.Response || reply.ID != binary.BigEndian.Uint16(b) {
			t.Errorf("%q gets %d bytes: %s", b, n, reply.GoString())
		}
	}
	answered := build(t, "web.peers.example.", dnsmessage.TypeA)
	answered[2] |= 0x80
	c := from(t, "udp", "127.3.0.1", at)
	if _, err := c.Write(answered); err != nil {
		t.Fatal(err)
	}
	if m, _ := c.ask(good); m.RCode != 0 || len(m.Answers) == 0 { // the only reply
		t.Errorf("%s", m.GoString())
	}
	if dropped := s.Stats().Queries["dropped"]; dropped == 0 {
		t.Error("nothing was dropped")
	}
}

// Anybody can ask in the name of a victim. The victim gets few long replies, and then only replies that
// are as short as the queries. Others are served meanwhile.
func TestSpoofedFlood(t *testing.T) {
	table := memory.New()
	listMany(t, table, "web", 200)
	_, at := attacked(t, table)
	query := build(t, "web.peers.example.", dnsmessage.TypeA, edns(1232, 0))
	victim, other := from(t, "udp", "127.4.0.1", at), from(t, "udp", "127.4.0.2", at)
	const queries = 3000
	long, began := 0, time.Now()
	for range queries {
		m, n := victim.ask(query)
		switch {
		case len(m.Answers) > 0:
			long++
		case n > len(query), !m.Truncated, m.RCode != 0:
			t.Fatalf("%d bytes instead of an answer, to a query of %d: %s", n, len(query), m.GoString())
		}
	}
	if most := 1000 + 100*int(time.Since(began)/time.Second+1); long < 1000 || long > most {
		t.Errorf("%d of %d answers are long, want 1000 to %d", long, queries, most)
	}
	if m, _ := other.ask(query); len(m.Answers) == 0 {
		t.Error("another address gets no answer")
	}
	tcp := from(t, "tcp", "127.4.0.1", at) // what a resolver does that is the victim's
	if m := tcp.askTCP(query); len(m.Answers) != 150 {
		t.Errorf("the victim gets %d answers over TCP", len(m.Answers))
	}
}

func (s *source) askTCP(query []byte) (m dnsmessage.Message) {
	s.t.Helper()
	send(s.t, s, query)
	return s.receiveTCP()
}

func (s *source) receiveTCP() (m dnsmessage.Message) {
	s.t.Helper()
	if err := m.Unpack(receive(s.t, s)); err != nil {
		s.t.Fatal(err)
	}
	return m
}

// A track of 10,000 peers has as many answers as fit, and neither one twice nor none. All of its peers
// have their turn.
func TestLargeTrackAnswers(t *testing.T) {
	table := memory.New()
	listMany(t, table, "large", 10_000)
	listMany(t, table, "other", 1)
	_, at := attacked(t, table)
	seen := make(map[string]bool)
	for i, tt := range []struct {
		name        string
		kind        dnsmessage.Type
		size        uint16 // of EDNS
		least, most int    // answers
	}{
		{"large.peers.example.", dnsmessage.TypeA, 0, 25, 31},
		{"large.peers.example.", dnsmessage.TypeA, 1232, 70, 75},
		{"large.peers.example.", dnsmessage.TypeA, 65535, 70, 75},
		{"large.peers.example.", dnsmessage.TypeAAAA, 1232, 38, 43},
		{"_a._b.large.peers.example.", dnsmessage.TypeSRV, 0, 5, 10},
		{"_a._b.large.peers.example.", dnsmessage.TypeSRV, 1232, 18, 25},
	} {
		udp, tcp := from(t, "udp", fmt.Sprintf("127.5.0.%d", i+1), at), from(t, "tcp", fmt.Sprintf("127.5.0.%d", i+1), at)
		query := build(t, tt.name, tt.kind, edns(tt.size, 0))
		for range 20 {
			m, n := udp.ask(query)
			if limit := max(512, min(int(tt.size), 1232)); n > limit || !m.Truncated || len(m.Answers) < tt.least || len(m.Answers) > tt.most {
				t.Fatalf("%s %v in %d bytes: %d bytes with %d answers, truncated %v", tt.name, tt.kind, tt.size, n, len(m.Answers), m.Truncated)
			}
			distinct(t, m, seen)
		}
		m := tcp.askTCP(query)
		if n := len(m.Answers); m.Truncated || n < 240 || n > 1000 {
			t.Errorf("%s %v over TCP: %d answers, truncated %v", tt.name, tt.kind, n, m.Truncated)
		}
		distinct(t, m, seen)
	}
	if len(seen) < 3000 {
		t.Errorf("all answers together have only %d records", len(seen))
	}
}

func distinct(t *testing.T, m dnsmessage.Message, seen map[string]bool) {
	t.Helper()
	here := make(map[string]bool)
	for _, r := range m.Answers {
		text := r.Body.GoString()
		if here[text] {
			t.Fatalf("%s is there twice", text)
		}
		here[text], seen[text] = true, true
	}
}

// Over TCP one address cannot keep others from an answer: not by silence, nor by half a query, nor by
// queries whose replies it does not read, nor by many connections.
func TestHostileConns(t *testing.T) {
	table := memory.New()
	listMany(t, table, "large", 4000)
	s, at := attacked(t, table)
	query := build(t, "large.peers.example.", dnsmessage.TypeA)
	framed := append(binary.BigEndian.AppendUint16(nil, uint16(len(query))), query...)
	for i := range 400 {
		c := from(t, "tcp", "127.6.0.1", at)
		switch i % 5 {
		case 1:
			_, _ = c.Write([]byte{0})
		case 2:
			_, _ = c.Write(framed[:len(framed)-1])
		case 3:
			_, _ = c.Write([]byte{0, 0})
		case 4:
			_ = c.SetWriteDeadline(time.Now().Add(10 * time.Millisecond))
			for range 100 {
				if _, err := c.Write(framed); err != nil {
					break
				}
			}
		}
	}
	if n := s.Stats().Conns; n > 16 {
		t.Errorf("%d connections of one address are open", n)
	}
	other := from(t, "tcp", "127.6.0.2", at)
	for range 3 { // one after the other on a connection
		if m := other.askTCP(query); len(m.Answers) == 0 {
			t.Error("another address gets no answer")
		}
	}
	for range 5 { // all at once
		if _, err := other.Write(framed); err != nil {
			t.Fatal(err)
		}
	}
	for range 5 {
		if m := other.receiveTCP(); len(m.Answers) == 0 {
			t.Error("another address gets no answer to one of many queries")
		}
	}
}

// Clients of many addresses do not read their replies, in all connections. A new one takes the place of one
// of them, and the system keeps little for each.
func TestUnreadConns(t *testing.T) {
	table := memory.New()
	listMany(t, table, "large", 1000)
	s := &dns.Server{Tracker: &tracker.Tracker{Store: table, Exempt: []netip.Prefix{}}}
	s.SetTimes(time.Minute, 50*time.Millisecond)
	at := serve(t, s, "127.0.0.1")
	query := build(t, "large.peers.example.", dnsmessage.TypeA)
	framed := append(binary.BigEndian.AppendUint16(nil, uint16(len(query))), query...)
	const conns, queries = dns.MaxConns, 100
	for i := range conns {
		c := from(t, "tcp", fmt.Sprintf("127.8.0.%d", 1+i/dns.MaxPerAddr), at)
		_ = c.Conn.(*net.TCPConn).SetReadBuffer(4096)
		if _, err := c.Write(bytes.Repeat(framed, queries)); err != nil {
			t.Fatal(err)
		}
	}
	until(t, func() bool { return s.IdleConns() == 0 && s.Stats().Conns == conns })
	until(t, func() bool {
		c := from(t, "tcp", "127.8.1.1", at)
		send(t, c, query)
		_, err := c.Read(make([]byte, 2))
		return err == nil
	})
	if n := s.Stats().Queries["answered"]; n > conns*queries/4 {
		t.Errorf("%d of %d queries were answered, and no reply was read", n, conns*queries)
	}
}
