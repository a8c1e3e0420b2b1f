package dns_test

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"golang.org/x/net/dns/dnsmessage"

	"ntrack/announce/wire"
	"ntrack/tracker"
	"ntrack/tracker/server/dns"
	"ntrack/tracker/store"
	"ntrack/tracker/store/memory"
)

var (
	local  = netip.MustParseAddr("127.0.0.1") // a client without limits
	public = netip.MustParseAddr("198.51.100.1")
)

// asks returns what a server replies to a query from this address, as text.
func asks(t testing.TB, s *dns.Server, from netip.Addr, tcp bool, q []byte) string {
	t.Helper()
	return show(t, dns.NewAnswerer(s).Answer(q, from, tcp))
}

// patch replaces bytes of a query.
func patch(at int, with ...byte) edit {
	return func(q []byte) []byte {
		copy(q[at:], with)
		return q
	}
}

func appended(b ...byte) edit { return func(q []byte) []byte { return append(q, b...) } }

// What is no query gets no reply, and a query that is malformed or asks for something else says so.
func TestMalformed(t *testing.T) {
	s := newServer(t, "lobby 192.0.2.1:1")
	end := len(build(t, "lobby.peers.example.", dnsmessage.TypeA)) - 4 // the type and the class
	const answer = "Success aa; lobby.peers.example. 5 A 192.0.2.1"
	opt := []byte{0, 0, 41, 4, 0, 0, 0, 0, 0, 0, 0}
	for _, tt := range []struct {
		name  string
		edits []edit
		want  string
	}{
		{"as it is", nil, answer},
		{"bytes after the query", []edit{appended(1, 2, 3)}, answer},
		{"nothing", []edit{func([]byte) []byte { return nil }}, ""},
		{"half a header", []edit{func(q []byte) []byte { return q[:11] }}, ""},
		{"a reply", []edit{patch(2, 0x81)}, ""},
		{"only a header", []edit{func(q []byte) []byte { return q[:12] }}, "FormatError"},
		{"half a question", []edit{func(q []byte) []byte { return q[:len(q)-1] }}, "FormatError"},
		{"no question", []edit{patch(4, 0, 0)}, "FormatError"},
		{"two questions", []edit{patch(4, 0, 2), appended(1, 'x', 0, 0, 1, 0, 1)}, "FormatError"},
		{"a label of 64 bytes", []edit{patch(12, 64)}, "FormatError"},
		{"a pointer to itself", []edit{patch(12, 0xc0, 12)}, "FormatError"},
		{"a pointer beyond the end", []edit{patch(12, 0xff, 0xff)}, "FormatError"},
		{"an answer that is missing", []edit{patch(6, 0, 1)}, "FormatError"},
		{"an answer", []edit{patch(6, 0, 1), appended(0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 0, 0, 0)}, answer},
		{"EDNS", []edit{edns(512, 0)}, answer + "; additional: OPT 1232 0"},
		{"options of EDNS", []edit{patch(11, 1), appended(0, 0, 41, 4, 0, 0, 0, 0x80, 0, 0, 6, 0, 3, 0, 2, 'h', 'i')}, answer + "; additional: OPT 1232 0"},
		{"an unknown version of EDNS", []edit{edns(512, 1)}, "Success; additional: OPT 1232 16"},
		{"two OPT", []edit{edns(512, 0), edns(512, 0)}, "FormatError; additional: OPT 1232 1"},
		{"an OPT with a name", []edit{patch(11, 1), appended(1, 'x'), appended(opt...)}, "FormatError"},
		{"half an OPT", []edit{patch(11, 1), appended(opt[:9]...)}, "FormatError"},
		{"other additional records", []edit{patch(11, 1), appended(0xc0, 12, 0, 250, 0, 255, 0, 0, 0, 0, 0, 1, 0)}, answer},
		{"an additional record that is cut", []edit{patch(11, 1), appended(0xc0, 12, 0, 250, 0, 255, 0, 0, 0, 0, 0, 9, 0)}, "FormatError"},
		{"opcode IQUERY", []edit{patch(2, 1<<3)}, "NotImplemented"},
		{"opcode NOTIFY", []edit{patch(2, 4<<3)}, "NotImplemented"},
		{"opcode UPDATE", []edit{patch(2, 5<<3)}, "NotImplemented"},
		{"opcode 15", []edit{patch(2, 15<<3|1), patch(4, 255, 255)}, "NotImplemented"},
		{"class CHAOS", []edit{patch(end+2, 0, 3)}, "Refused"},
		{"class ANY", []edit{patch(end+2, 0, 255)}, "Refused"},
	} {
		for _, tcp := range []bool{false, true} {
			reply := dns.NewAnswerer(s).Answer(build(t, "lobby.peers.example.", dnsmessage.TypeA, tt.edits...), public, tcp)
			switch {
			case tt.want == "" && reply != nil, tt.want != "" && reply == nil:
				t.Errorf("%s: the reply is %x", tt.name, reply)
			case tt.want != "" && show(t, reply) != tt.want:
				t.Errorf("%s: %s\nwant %s", tt.name, show(t, reply), tt.want)
			}
		}
	}
	for name, n := range map[string]uint64{"dropped": 6, "malformed": 24, "unsupported": 10, "refused": 4, "answered": 12} {
		if got := s.Stats().Queries[name]; got != n {
			t.Errorf("%d queries were %s, want %d", got, name, n)
		}
	}
}

// A packet has as many records as fit, and says if there are more. TCP has them all.
func TestTruncated(t *testing.T) {
	long := strings.Repeat("z.", (dns.MaxZone-len("zzz"))/2) + "zzz"
	both := many("lobby", 100)
	for i := range 100 {
		both = append(both, fmt.Sprintf("lobby [2001:db8::%x]:4000", i+1))
	}
	crowd := many("lobby", 3)
	for i := range 500 { // on one machine
		crowd = append(crowd, fmt.Sprintf("lobby 203.0.113.1:%d", i+1))
	}
	few := many("lobby", 5)
	for i := range 900 {
		few = append(few, fmt.Sprintf("lobby [2001:db8::%x]:4000", i+1))
	}
	const A, AAAA, SRV = dnsmessage.TypeA, dnsmessage.TypeAAAA, dnsmessage.TypeSRV
	for _, tt := range []struct {
		what  string
		peers []string
		zone  string
		typ   dnsmessage.Type
		edns  uint16 // 0 without it
		least int    // records in a packet
		over  int    // records over TCP
	}{
		{"28 fit", many("lobby", 28), "", A, 0, 28, 28},
		{"one too many", many("lobby", 31), "", A, 0, 29, 31},
		{"EDNS with a small size", many("lobby", 31), "", A, 12, 28, 31},
		{"EDNS", many("lobby", 74), "", A, 1232, 74, 74},
		{"a size above the limit", many("lobby", 80), "", A, 65535, 74, 80},
		{"EDNS with a size between", many("lobby", 100), "", A, 600, 34, 100},
		{"many", many("lobby", 3000), "", A, 1232, 74, 1000},
		{"both families, A", both, "", A, 1232, 74, 100},
		{"both families, AAAA", both, "", AAAA, 1232, 42, 100},
		{"few of a family", few, "", A, 1232, 5, 5},
		{"many on one machine", crowd, "", A, 1232, 1, 4},
		{"services", many("lobby", 300), "", SRV, 1232, 21, 300},
		{"services in a small packet", many("lobby", 300), "", SRV, 0, 7, 300},
		{"services of a long zone", []string{"lobby [2001:db8:1234:5678:9abc:def0:1234:5678]:4000"}, long, SRV, 0, 1, 1},
		{"more than 64 KB", many("lobby", 1000), long, SRV, 0, 1, 300},
	} {
		s := newServer(t, tt.peers...)
		if tt.zone != "" {
			s.Zone = tt.zone
		}
		name := "lobby." + s.Zone + "."
		if tt.typ == SRV {
			name = "_http._tcp." + name
		}
		var edits []edit
		size := 512
		if tt.edns > 0 {
			edits, size = []edit{edns(tt.edns, 0)}, min(max(512, int(tt.edns)), 1232)
		}
		for _, tcp := range []bool{false, true} {
			reply := dns.NewAnswerer(s).Answer(build(t, name, tt.typ, edits...), public, tcp)
			var m dnsmessage.Message
			if err := m.Unpack(reply); err != nil {
				t.Fatal(err)
			}
			var bodies []string
			for _, r := range m.Answers {
				if r.Header.Type != tt.typ || r.Header.Name.String() != name {
					t.Errorf("%s: %v", tt.what, r)
				}
				bodies = append(bodies, body(r.Body))
			}
			slices.Sort(bodies)
			n := len(slices.Compact(bodies))
			if n != len(m.Answers) {
				t.Errorf("%s: %d of %d records are different", tt.what, n, len(m.Answers))
			}
			least, most := tt.least, size
			if tcp {
				least, most = tt.over, 1<<16-1
			}
			more := !tcp && tt.over > n && tt.what != "many on one machine"
			if n < least || m.Truncated != more || len(reply) > most {
				t.Errorf("%s, tcp %t: %d records, want %d; truncated %t, %d bytes", tt.what, tcp, n, least, m.Truncated, len(reply))
			}
			// The next record would not have had room.
			if m.Truncated && tt.typ == A && len(reply) <= size-16 {
				t.Errorf("%s: %d bytes of %d are used", tt.what, len(reply), size)
			}
		}
	}
}

// A client gets what a tracker reports to its address. A track that it does not see does not exist.
func TestScopes(t *testing.T) {
	s := newServer(t, "lobby 127.0.0.1:1", "lobby 10.0.0.1:1", "lobby 192.0.2.1:1", "near 10.0.0.1:1", "here [::1]:1")
	for _, tt := range []struct{ name, from, want string }{
		{"lobby", "127.0.0.1", "10.0.0.1, 127.0.0.1, 192.0.2.1"},
		{"lobby", "192.168.0.1", "10.0.0.1, 192.0.2.1"},
		{"lobby", "198.51.100.1", "192.0.2.1"},
		{"near", "::1", "10.0.0.1"},
		{"near", "198.51.100.1", ""},
		{"near", "2001:db8::1", ""},
		{"here", "10.0.0.1", ""},
	} {
		name := tt.name + ".peers.example."
		got := asks(t, s, netip.MustParseAddr(tt.from), false, build(t, name, dnsmessage.TypeA))
		want := noName
		if tt.want != "" {
			want = "Success aa"
			for i, a := range strings.Split(tt.want, ", ") {
				want += [2]string{"; ", ", "}[min(i, 1)] + name + " 5 A " + a
			}
		}
		if got != want {
			t.Errorf("%s asks for %s: %s\nwant %s", tt.from, tt.name, got, want)
		}
	}
	if got := asks(t, s, public, false, build(t, "_http._tcp.lobby.peers.example.", dnsmessage.TypeSRV)); strings.Contains(got, "127") || strings.Contains(got, "10-0") {
		t.Errorf("a public client gets %s", got)
	}
}

// The address of the server keeps to its scope, too: it may be private, behind NAT.
func TestScopeOfServer(t *testing.T) {
	answerer := dns.NewAnswerer(newServer(t))
	for _, tt := range []struct {
		local, from string
		shown       bool
	}{
		{"198.51.100.53", "192.0.2.1", true},
		{"198.51.100.53", "10.0.0.1", true},
		{"10.0.0.53", "10.0.0.1", true},
		{"10.0.0.53", "127.0.0.1", true},
		{"10.0.0.53", "192.0.2.1", false},
		{"127.0.0.1", "10.0.0.1", false},
	} {
		answerer.SetLocal(netip.MustParseAddr(tt.local))
		const record = "ns.peers.example. 300 A "
		for _, q := range [][]byte{build(t, "ns.peers.example.", dnsmessage.TypeA), build(t, "peers.example.", dnsmessage.TypeNS)} {
			got := show(t, answerer.Answer(q, netip.MustParseAddr(tt.from), false))
			if strings.Contains(got, record+tt.local) != tt.shown || !strings.HasPrefix(got, "Success aa") {
				t.Errorf("%s asks at %s: %s", tt.from, tt.local, got)
			}
		}
	}
}

// If a client sees few peers of a large track, it never gets the answer that there are none.
func TestRareScope(t *testing.T) {
	table := memory.New()
	for i := range 60_000 {
		list(t, table, "lobby", netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 0, byte(i >> 8), byte(i)}), 1))
	}
	for i := range 3 {
		list(t, table, "lobby", netip.AddrPortFrom(netip.AddrFrom4([4]byte{192, 0, 2, byte(i)}), 1))
	}
	s := &dns.Server{Tracker: &tracker.Tracker{Store: table}, Zone: "peers.example"}
	for range 20 {
		got := asks(t, s, public, false, build(t, "lobby.peers.example.", dnsmessage.TypeA))
		if !strings.HasPrefix(got, "Success aa; lobby.peers.example. 5 A 192.0.2.") && got != "ServerFailure" {
			t.Fatal(got)
		}
	}
}

// A denied network is refused, and a denied key does not exist.
func TestDenied(t *testing.T) {
	s := newServer(t, "lobby 192.0.2.1:1", "other 192.0.2.1:1")
	denial, err := tracker.ParseDenial("net 198.51.100.0/24\nkey lobby")
	if err != nil {
		t.Fatal(err)
	}
	// Without SetDenial the peers stay, as those of other trackers may that share the table.
	s.Tracker.Denial = denial
	for _, tt := range []struct {
		from, name, want string
	}{
		{"198.51.100.1", "other.peers.example.", refused},
		{"203.0.113.1", "lobby.peers.example.", noName},
		{"203.0.113.1", "other.peers.example.", "Success aa; other.peers.example. 5 A 192.0.2.1"},
	} {
		if got := asks(t, s, netip.MustParseAddr(tt.from), false, build(t, tt.name, dnsmessage.TypeA)); got != tt.want {
			t.Errorf("%s asks for %s: %s\nwant %s", tt.from, tt.name, got, tt.want)
		}
	}
}

// Above its rate a network gets packets without records, which are marked as truncated, and TCP goes on.
// Clients without limits do not have this one.
func TestRate(t *testing.T) {
	s := newServer(t, "lobby 192.0.2.1:1")
	q := build(t, "lobby.peers.example.", dnsmessage.TypeA)
	const answer, limited = "Success aa; lobby.peers.example. 5 A 192.0.2.1", "Success aa tc"
	a := dns.NewAnswerer(s)
	count := func(from netip.Addr, n int) (answers int) {
		for range n {
			switch got := show(t, a.Answer(q, from, false)); got {
			case answer:
				answers++
			case limited:
			default:
				t.Fatal(got)
			}
		}
		return answers
	}
	// Some more may come while this counts, at 100 per second.
	if n := count(public, 3*dns.UDPBurst()); n < dns.UDPBurst() || n > 2*dns.UDPBurst() {
		t.Errorf("an address gets %d answers at once, want %d", n, dns.UDPBurst())
	}
	if got := show(t, a.Answer(q, public, true)); got != answer {
		t.Errorf("over TCP: %s", got)
	}
	if got := show(t, a.Answer(build(t, "nobody.example.", dnsmessage.TypeA), public, false)); got != refused {
		t.Errorf("outside the zone: %s", got)
	}
	until(t, func() bool {
		reply := a.Answer(q, public, false)
		return show(t, reply) == limited && len(reply) == len(q)
	})
	if n := count(public.Next(), 10); n != 10 {
		t.Errorf("another address gets %d of 10 answers", n)
	}
	if n := count(local, 2*dns.UDPBurst()); n != 2*dns.UDPBurst() {
		t.Errorf("a loopback address gets %d answers", n)
	}
	if s.Stats().Queries["limited"] == 0 {
		t.Error("the numbers have no limited query")
	}
}

// Answers over UDP, which anybody can cause in the name of an address, take nothing from those over TCP,
// and the other way round.
func TestRatesAreSeparate(t *testing.T) {
	for _, first := range []bool{false, true} { // whether it is TCP
		s := newServer(t)
		for s.Allows(public, first) { // much faster than the address gets more
		}
		burst := dns.TCPBurst()
		if first {
			burst = dns.UDPBurst()
		}
		for i := range burst {
			if !s.Allows(public, !first) {
				t.Fatalf("TCP first %t: %d answers of %d", first, i, burst)
			}
		}
	}
}

// A brokenStore fails, or has peers that only the last of some looks finds.
type brokenStore struct {
	store.Store
	err   error
	count int
	peers []wire.Peer
	vain  int // looks that find nothing
}

func (s *brokenStore) Look(_ context.Context, _ []byte, _ netip.Addr, _ store.Want, dst []wire.Peer) ([]wire.Peer, store.Result, error) {
	if s.vain--; s.vain < 0 {
		dst = append(dst, s.peers...)
	}
	return dst, store.Result{Count: s.count}, s.err
}

// fixed is a store with n peers, always in the same order.
func fixed(n int) *brokenStore {
	s := &brokenStore{Store: memory.New(), count: n}
	for i := range n {
		s.peers = append(s.peers, wire.Peer{Endpoint: netip.AddrPortFrom(netip.AddrFrom4([4]byte{192, 0, 2, byte(i)}), 1)})
	}
	return s
}

// If a look finds nothing, the server looks again.
func TestLooksAgain(t *testing.T) {
	hiding := fixed(1)
	hiding.vain = 7
	s := &dns.Server{Tracker: &tracker.Tracker{Store: hiding}, Zone: "peers.example"}
	if got := asks(t, s, public, false, build(t, "lobby.peers.example.", dnsmessage.TypeA)); got != "Success aa; lobby.peers.example. 5 A 192.0.2.0" {
		t.Error(got)
	}
}

// If the store fails, the server says that it failed, and never that there is nothing.
func TestStoreFails(t *testing.T) {
	for _, broken := range []*brokenStore{{err: store.ErrUnavailable}, {err: errors.New("broken")}, {count: 3}} {
		broken.Store = memory.New()
		s := &dns.Server{Tracker: &tracker.Tracker{Store: broken}, Zone: "peers.example"}
		for _, name := range []string{"lobby", "_tcp.lobby", "_http._tcp.lobby"} {
			for _, typ := range []dnsmessage.Type{dnsmessage.TypeA, dnsmessage.TypeSRV, dnsmessage.TypeALL} {
				if got := asks(t, s, public, false, build(t, name+".peers.example.", typ)); got != "ServerFailure" {
					t.Errorf("%v: %s %v: %s", broken.err, name, typ, got)
				}
			}
		}
	}
}

// Answers are in a random order, whatever that of the store is.
func TestOrder(t *testing.T) {
	a := dns.NewAnswerer(&dns.Server{Tracker: &tracker.Tracker{Store: fixed(10)}, Zone: "peers.example"})
	for name, typ := range map[string]dnsmessage.Type{"lobby.peers.example.": dnsmessage.TypeA, "_http._tcp.lobby.peers.example.": dnsmessage.TypeSRV} {
		seen := make(map[string]bool)
		for range 200 {
			var m dnsmessage.Message
			if err := m.Unpack(a.Answer(build(t, name, typ), local, false)); err != nil {
				t.Fatal(err)
			}
			seen[body(m.Answers[0].Body)] = true
		}
		if len(seen) != 10 { // by chance one in 10^8 runs
			t.Errorf("%d of 10 records of %v come first", len(seen), typ)
		}
	}
}

func TestParseZone(t *testing.T) {
	long := strings.Repeat("z.", (dns.MaxZone-len("zzz"))/2) + "zzz"
	for text, want := range map[string]string{
		"peers.example": "peers.example", "Peers.EXAMPLE.": "peers.example", "lan": "lan", "xn--a.b-c.1": "xn--a.b-c.1",
		long: long, long + ".z": "", "": "", ".": "", "a..b": "", ".a": "", "a..": "", "-a": "", "a-": "", "a_b": "", "a b": "", "ä": "", "*.a": "",
		"\u212aeys.example": "", "\u0130.example": "", strings.Repeat("k", 63): strings.Repeat("k", 63), strings.Repeat("k", 64): "",
	} {
		got, err := dns.ParseZone(text)
		if got != want || (err == nil) != (want != "") {
			t.Errorf("%q: %q, %v", text, got, err)
		}
	}
}

// Every address has a name that is a host name, and that the server answers with the address.
func TestAddressNames(t *testing.T) {
	for _, text := range []string{"0.0.0.0", "192.0.2.1", "255.255.255.255", "::", "::1", "2001:db8::", "2001:db8::1", "2001:db8:0:1:1:1:1:1",
		"2001:db8:1234:5678:9abc:def0:1234:5678", "1::8", "fe80::1"} {
		addr := netip.MustParseAddr(text)
		s := newServer(t, "lobby "+netip.AddrPortFrom(addr, 4000).String())
		var m dnsmessage.Message
		if err := m.Unpack(dns.NewAnswerer(s).Answer(build(t, "_http._tcp.lobby.peers.example.", dnsmessage.TypeSRV), local, false)); err != nil || len(m.Answers) != 1 {
			t.Fatalf("%s: %v, %v", text, m, err)
		}
		target := m.Answers[0].Body.(*dnsmessage.SRVResource).Target.String()
		if zone, err := dns.ParseZone(target); err != nil || zone+"." != target {
			t.Errorf("%s is called %s", text, target)
		}
		typ := dnsmessage.TypeAAAA
		if addr.Is4() {
			typ = dnsmessage.TypeA
		}
		got := asks(t, s, local, false, build(t, target, typ))
		if !strings.HasSuffix(got, " "+text) {
			t.Errorf("%s: %s", target, got)
		}
	}
}
