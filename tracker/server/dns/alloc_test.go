//go:build !race

package dns_test

import (
	"testing"

	"golang.org/x/net/dns/dnsmessage"

	"ntrack/tracker/server/dns"
)

// An answer allocates next to nothing. This test does not run under the race detector, which makes pools
// allocate.
func TestAllocates(t *testing.T) {
	a := dns.NewAnswerer(newServer(t, many("lobby", 1000)...))
	q := build(t, "lobby.peers.example.", dnsmessage.TypeA, edns(1232, 0))
	if n := testing.AllocsPerRun(100, func() { a.Answer(q, local, false) }); n > 6 {
		t.Errorf("an answer allocates %v times", n)
	}
}
