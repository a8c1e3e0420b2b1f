package dns_test

import (
	"bytes"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"golang.org/x/net/dns/dnsmessage"

	"ntrack/tracker/server/dns"
)

// Whatever comes, the reply is a message that belongs to it, and has no more bytes than the client takes.
func FuzzQuery(f *testing.F) {
	s := newServer(f, append(many("lobby", 200), "here [::1]:1", "lobby [2001:db8::1]:4000")...)
	s.Tracker.Exempt = []netip.Prefix{netip.MustParsePrefix("0.0.0.0/0")}
	for _, name := range []string{"lobby.peers.example.", "_http._tcp.lobby.peers.example.", "_tcp.LOBBY.peers.example.", "192-0-2-1.ip.peers.example.",
		"2001-db8--1.ip.peers.example.", "ns.peers.example.", "ip.peers.example.", "peers.example.", "nobody.peers.example.", "example.", "."} {
		for _, typ := range []dnsmessage.Type{1, 2, 6, 28, 33, 251, 252, 255} {
			f.Add(build(f, name, typ), false)
			f.Add(build(f, name, typ, edns(1232, 0)), true)
		}
	}
	f.Add(build(f, "lobby.peers.example.", 1, edns(4096, 1), edns(0, 0)), false)
	f.Add(build(f, "lobby.peers.example.", 1, patch(12, 0xc0, 0)), false)
	f.Add(build(f, "lobby.peers.example.", 1, patch(2, 4<<3)), false)
	a := dns.NewAnswerer(s)
	f.Fuzz(func(t *testing.T, q []byte, tcp bool) {
		if len(q) > 4096 {
			return
		}
		sent := bytes.Clone(q)
		reply := a.Answer(q, public, tcp)
		if !bytes.Equal(q, sent) {
			t.Fatal("the query has changed")
		}
		if reply == nil {
			if len(q) >= 12 && q[2]&0x80 == 0 {
				t.Fatalf("no reply to %x", q)
			}
			return
		}
		var m dnsmessage.Message
		if err := m.Unpack(reply); err != nil {
			t.Fatalf("%v in %x, the reply to %x", err, reply, q)
		}
		most := 1232
		if tcp {
			most = 1<<16 - 1
		}
		if len(reply) > most || len(q) < 12 || !bytes.Equal(reply[:2], q[:2]) || !m.Response || m.RecursionAvailable || len(m.Questions) > 1 || tcp && m.Truncated {
			t.Fatalf("%x, the reply to %x", reply, q)
		}
		if m.Truncated && len(m.Answers) == 0 {
			t.Fatalf("an empty answer %x to %x", reply, q)
		}
		for _, r := range slices.Concat(m.Answers, m.Authorities) {
			if name := strings.ToLower(r.Header.Name.String()); !strings.HasSuffix(name, "peers.example.") {
				t.Fatalf("a record of %q", name)
			}
		}
	})
}
