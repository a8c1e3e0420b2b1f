package dns_test

import (
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/dns/dnsmessage"

	"ntrack/announce/wire"
	"ntrack/tracker"
	"ntrack/tracker/server/dns"
	"ntrack/tracker/store"
	"ntrack/tracker/store/memory"
)

// serve serves a zone at a free port of a host, and returns the address.
func serve(t testing.TB, s *dns.Server, host string) string {
	t.Helper()
	var tcp net.Listener
	var udp *net.UDPConn
	family := ""
	if host == "0.0.0.0" {
		family = "4" // without it, this is every address
	}
	for range 20 {
		var err error
		if tcp, err = net.Listen("tcp"+family, net.JoinHostPort(host, "0")); err != nil {
			t.Fatal(err)
		}
		port := tcp.Addr().(*net.TCPAddr).Port
		pc, err := net.ListenPacket("udp"+family, net.JoinHostPort(host, fmt.Sprint(port)))
		if err == nil {
			udp = pc.(*net.UDPConn)
			break
		}
		_ = tcp.Close() // another program has this port
	}
	if s.Zone == "" {
		s.Zone = "peers.example"
	}
	ended := make(chan error, 1)
	go func() { ended <- s.Serve(udp, tcp) }()
	t.Cleanup(func() {
		_ = s.Close()
		if err := <-ended; err != dns.ErrClosed {
			t.Errorf("Serve: %v", err)
		}
	})
	return tcp.Addr().String()
}

// newServer returns a server whose tracker has peers, each "KEY ADDR:PORT".
func newServer(t testing.TB, peers ...string) *dns.Server {
	table := memory.New()
	for _, p := range peers {
		key, endpoint, _ := strings.Cut(p, " ")
		list(t, table, key, netip.MustParseAddrPort(endpoint))
	}
	return &dns.Server{Tracker: &tracker.Tracker{Store: table}, Zone: "peers.example"}
}

func list(t testing.TB, table store.Store, key string, endpoint netip.AddrPort) {
	t.Helper()
	ttl := func(store.Size) time.Duration { return time.Hour }
	if _, _, err := table.Announce(context.Background(), []byte(key), wire.Peer{Endpoint: endpoint}, ttl, store.Want{}, nil); err != nil {
		t.Fatal(err)
	}
}

// An edit changes a query before it is sent.
type edit func(q []byte) []byte

// edns adds an OPT record.
func edns(size uint16, version byte) edit {
	return func(q []byte) []byte {
		q[11]++
		return append(q, 0, 0, 41, byte(size>>8), byte(size), 0, version, 0, 0, 0, 0)
	}
}

// build returns a query. name is as a client writes it.
func build(t testing.TB, name string, typ dnsmessage.Type, edits ...edit) []byte {
	t.Helper()
	b := dnsmessage.NewBuilder(nil, dnsmessage.Header{ID: 0x1234, RecursionDesired: true})
	_ = b.StartQuestions()
	if err := b.Question(dnsmessage.Question{Name: dnsmessage.MustNewName(name), Type: typ, Class: dnsmessage.ClassINET}); err != nil {
		t.Fatal(err)
	}
	q, err := b.Finish()
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range edits {
		q = e(q)
	}
	return q
}

// exchange sends a query, and returns the reply as bytes.
func exchange(t testing.TB, network, at string, q []byte) []byte {
	t.Helper()
	c, err := net.Dial(network, at)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(10 * time.Second))
	if network == "tcp" {
		send(t, c, q)
		return receive(t, c)
	}
	if _, err := c.Write(q); err != nil {
		t.Fatal(err)
	}
	reply := make([]byte, 1<<16)
	n, err := c.Read(reply)
	if err != nil {
		t.Fatal(err)
	}
	return reply[:n]
}

// send sends a query over TCP.
func send(t testing.TB, c net.Conn, q []byte) {
	t.Helper()
	if _, err := c.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(q))), q...)); err != nil {
		t.Fatal(err)
	}
}

// receive receives a reply over TCP.
func receive(t testing.TB, c net.Conn) []byte {
	t.Helper()
	var length [2]byte
	if _, err := io.ReadFull(c, length[:]); err != nil {
		t.Fatal(err)
	}
	reply := make([]byte, binary.BigEndian.Uint16(length[:]))
	if _, err := io.ReadFull(c, reply); err != nil {
		t.Fatal(err)
	}
	return reply
}

// show writes a reply as text: the code and flags, and each section that is not empty, with its records
// in order.
func show(t testing.TB, reply []byte) string {
	t.Helper()
	var m dnsmessage.Message
	if err := m.Unpack(reply); err != nil {
		t.Fatalf("%v in %x", err, reply)
	}
	if m.ID != 0x1234 || !m.Response || m.RecursionAvailable {
		t.Errorf("wrong header %+v", m.Header)
	}
	text := strings.TrimPrefix(m.RCode.String(), "RCode")
	for flag, set := range map[string]bool{"aa": m.Authoritative} {
		if set {
			text += " " + flag
		}
	}
	if m.Truncated {
		text += " tc"
	}
	for _, section := range []struct {
		name    string
		records []dnsmessage.Resource
	}{{"", m.Answers}, {"authority: ", m.Authorities}, {"additional: ", m.Additionals}} {
		var lines []string
		for _, r := range section.records {
			h := &r.Header
			if h.Type == dnsmessage.TypeOPT {
				lines = append(lines, fmt.Sprintf("OPT %d %d", h.Class, h.ExtendedRCode(m.RCode)))
				continue
			}
			lines = append(lines, fmt.Sprintf("%s %d %s", h.Name, h.TTL, body(r.Body)))
		}
		slices.Sort(lines)
		if len(lines) > 0 {
			text += "; " + section.name + strings.Join(lines, ", ")
		}
	}
	return text
}

func body(b dnsmessage.ResourceBody) string {
	switch b := b.(type) {
	case *dnsmessage.AResource:
		return "A " + netip.AddrFrom4(b.A).String()
	case *dnsmessage.AAAAResource:
		return "AAAA " + netip.AddrFrom16(b.AAAA).String()
	case *dnsmessage.SRVResource:
		return fmt.Sprintf("SRV %d %d %d %s", b.Priority, b.Weight, b.Port, b.Target)
	case *dnsmessage.NSResource:
		return "NS " + b.NS.String()
	case *dnsmessage.SOAResource:
		return fmt.Sprintf("SOA %s %s %d", b.NS, b.MBox, b.MinTTL)
	case *dnsmessage.UnknownResource:
		return fmt.Sprintf("%v %q", b.Type, b.Data)
	}
	return fmt.Sprint(b)
}

const (
	soa     = "; authority: peers.example. 1 SOA ns.peers.example. hostmaster.peers.example. 1"
	noName  = "NameError aa" + soa
	noData  = "Success aa" + soa
	refused = "Refused"
)

// Each query gets the same answer over UDP and TCP.
func TestAnswers(t *testing.T) {
	at := serve(t, newServer(t, "lobby 192.0.2.1:4000", "lobby 192.0.2.1:4001", "lobby 192.0.2.2:4000", "lobby [2001:db8::1]:4000",
		"four 192.0.2.1:1", "six [2001:db8::5]:1", "near 10.0.0.1:1", "here 127.0.0.1:1", "a.b 192.0.2.1:1", "Big 192.0.2.1:1",
		"ip 192.0.2.1:1", "ns 192.0.2.1:1", "-x 192.0.2.1:1", "x- 192.0.2.1:1", "a_b 192.0.2.1:1", "_tcp 192.0.2.1:1",
		"xn--mnchen-3ya 192.0.2.1:1", "7 192.0.2.1:1", strings.Repeat("k", 63)+" 192.0.2.1:1"), "127.0.0.1")
	const (
		A, AAAA, SRV = dnsmessage.TypeA, dnsmessage.TypeAAAA, dnsmessage.TypeSRV
		TXT, NS, SOA = dnsmessage.TypeTXT, dnsmessage.TypeNS, dnsmessage.TypeSOA
		ANY          = dnsmessage.TypeALL
	)
	for _, tt := range []struct {
		name string
		typ  dnsmessage.Type
		want string
	}{
		// The addresses of a key, each once.
		{"lobby.peers.example.", A, "Success aa; lobby.peers.example. 5 A 192.0.2.1, lobby.peers.example. 5 A 192.0.2.2"},
		{"lobby.peers.example.", AAAA, "Success aa; lobby.peers.example. 5 AAAA 2001:db8::1"},
		{"here.peers.example.", A, "Success aa; here.peers.example. 5 A 127.0.0.1"},
		{"7.peers.example.", A, "Success aa; 7.peers.example. 5 A 192.0.2.1"},
		{"xn--mnchen-3ya.peers.example.", A, "Success aa; xn--mnchen-3ya.peers.example. 5 A 192.0.2.1"},
		{strings.Repeat("k", 63) + ".peers.example.", TXT, noData},
		// The case of the query is kept.
		{"LoBBy.Peers.EXAMPLE.", AAAA, "Success aa; LoBBy.Peers.EXAMPLE. 5 AAAA 2001:db8::1"},
		{"Nobody.Peers.EXAMPLE.", A, "NameError aa; authority: Peers.EXAMPLE. 1 SOA ns.peers.example. hostmaster.peers.example. 1"},
		// A family without peers, and other types.
		{"four.peers.example.", AAAA, noData},
		{"six.peers.example.", A, noData},
		{"lobby.peers.example.", TXT, noData},
		{"lobby.peers.example.", SRV, noData},
		{"lobby.peers.example.", NS, noData},
		{"lobby.peers.example.", SOA, noData},
		{"lobby.peers.example.", 41, noData},
		{"lobby.peers.example.", ANY, `Success aa; lobby.peers.example. 5 TypeHINFO "\aRFC8482\x00"`},
		// Keys without peers, keys that have no name, and what is no key.
		{"nobody.peers.example.", A, noName},
		{"nobody.peers.example.", ANY, noName},
		{"x.lobby.peers.example.", A, noName},
		{"a.b.peers.example.", A, noName},
		{"-x.peers.example.", A, noName},
		{"x-.peers.example.", A, noName},
		{"a_b.peers.example.", A, noName},
		{"_tcp.peers.example.", A, noName},
		{"big.peers.example.", A, noName},
		{"Big.peers.example.", A, noName},
		{"*.peers.example.", A, noName},
		// Endpoints.
		{"_http._tcp.lobby.peers.example.", SRV, "Success aa; " +
			"_http._tcp.lobby.peers.example. 5 SRV 0 1 4000 192-0-2-1.ip.peers.example., " +
			"_http._tcp.lobby.peers.example. 5 SRV 0 1 4000 192-0-2-2.ip.peers.example., " +
			"_http._tcp.lobby.peers.example. 5 SRV 0 1 4000 2001-db8--1.ip.peers.example., " +
			"_http._tcp.lobby.peers.example. 5 SRV 0 1 4001 192-0-2-1.ip.peers.example.; additional: " +
			"192-0-2-1.ip.peers.example. 5 A 192.0.2.1, 192-0-2-2.ip.peers.example. 5 A 192.0.2.2, " +
			"2001-db8--1.ip.peers.example. 5 AAAA 2001:db8::1"},
		{"_X._UDP.Six.Peers.example.", SRV, "Success aa; _X._UDP.Six.Peers.example. 5 SRV 0 1 1 2001-db8--5.ip.peers.example.; " +
			"additional: 2001-db8--5.ip.peers.example. 5 AAAA 2001:db8::5"},
		{"_http._tcp.lobby.peers.example.", A, noData},
		{"_tcp.lobby.peers.example.", A, noData},
		{"_tcp.lobby.peers.example.", SRV, noData},
		{"_tcp.lobby.peers.example.", ANY, noData},
		{"_tcp.nobody.peers.example.", A, noName},
		{"_http._tcp.nobody.peers.example.", SRV, noName},
		{"_a._http._tcp.lobby.peers.example.", SRV, noName},
		{"http._tcp.lobby.peers.example.", SRV, noName},
		{"_http.tcp.lobby.peers.example.", SRV, noName},
		{"_._tcp.lobby.peers.example.", SRV, noName},
		{"_http._tcp.ip.peers.example.", SRV, noName},
		{"_http._tcp.ns.peers.example.", SRV, noName},
		// Their names.
		{"192-0-2-1.ip.peers.example.", A, "Success aa; 192-0-2-1.ip.peers.example. 5 A 192.0.2.1"},
		{"192-0-2-1.ip.peers.example.", AAAA, noData},
		{"2001-DB8--1.ip.peers.example.", AAAA, "Success aa; 2001-DB8--1.ip.peers.example. 5 AAAA 2001:db8::1"},
		{"2001-db8--1.ip.peers.example.", A, noData},
		{"0--1.ip.peers.example.", AAAA, "Success aa; 0--1.ip.peers.example. 5 AAAA ::1"},
		{"192-0-2.ip.peers.example.", A, noName},
		{"192-0-2-256.ip.peers.example.", A, noName},
		{"x.192-0-2-1.ip.peers.example.", A, noName},
		{"192.0.2.1.ip.peers.example.", A, noName},
		{"ip.peers.example.", A, noData},
		{"ip.peers.example.", ANY, `Success aa; ip.peers.example. 5 TypeHINFO "\aRFC8482\x00"`},
		// The zone itself.
		{"peers.example.", SOA, "Success aa; peers.example. 300 SOA ns.peers.example. hostmaster.peers.example. 1"},
		{"peers.example.", NS, "Success aa; peers.example. 300 NS ns.peers.example.; additional: ns.peers.example. 300 A 127.0.0.1"},
		{"peers.example.", A, noData},
		{"PEERS.example.", A, strings.Replace(noData, "peers", "PEERS", 1)},
		{"ns.peers.example.", A, "Success aa; ns.peers.example. 300 A 127.0.0.1"},
		{"ns.peers.example.", AAAA, noData},
		{"x.ns.peers.example.", A, noName},
		// Nothing is enumerated, and nothing outside the zone is answered.
		{"peers.example.", dnsmessage.TypeAXFR, refused},
		{"peers.example.", 251, refused},
		{"lobby.peers.example.", dnsmessage.TypeAXFR, refused},
		{"example.", SOA, refused},
		{".", NS, refused},
		{"xpeers.example.", A, refused},
		{"lobby.peers.example.org.", A, refused},
	} {
		for _, network := range []string{"udp", "tcp"} {
			if got := show(t, exchange(t, network, at, build(t, tt.name, tt.typ))); got != tt.want {
				t.Errorf("%s %s %v\n got %s\nwant %s", network, tt.name, tt.typ, got, tt.want)
			}
		}
	}
}
