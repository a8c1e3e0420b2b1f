package dns_test

import (
	"fmt"
	"net/netip"
	"testing"

	"golang.org/x/net/dns/dnsmessage"

	"ntrack/tracker/server/dns"
)

// many returns n peers of a key.
func many(key string, n int) (list []string) {
	for i := range n {
		list = append(list, fmt.Sprintf("%s 192.0.%d.%d:4000", key, i/256, i%256))
	}
	return list
}

func BenchmarkAnswer(b *testing.B) {
	for _, c := range []struct {
		name  string
		peers int
		query []byte
	}{
		{"A-1", 1, build(b, "lobby.peers.example.", dnsmessage.TypeA)},
		{"A-20", 20, build(b, "lobby.peers.example.", dnsmessage.TypeA)},
		{"A-1000", 1000, build(b, "lobby.peers.example.", dnsmessage.TypeA, edns(1232, 0))},
		{"SRV-5", 5, build(b, "_http._tcp.lobby.peers.example.", dnsmessage.TypeSRV, edns(1232, 0))},
		{"NXDOMAIN", 1, build(b, "nobody.peers.example.", dnsmessage.TypeA)},
	} {
		b.Run(c.name, func(b *testing.B) {
			a := dns.NewAnswerer(newServer(b, many("lobby", c.peers)...))
			from := netip.MustParseAddr("127.0.0.1")
			b.ReportAllocs()
			for b.Loop() {
				a.Answer(c.query, from, false)
			}
		})
	}
}
