package announce

import (
	"fmt"
	"net/netip"
	"testing"
	"time"
)

// A tracker that comes back has its ttl of grace, whatever samples had left out before.
func TestGraceAfterSamples(t *testing.T) {
	a, b := netip.MustParseAddrPort("192.0.2.1:1"), netip.MustParseAddrPort("192.0.2.2:1")
	reply := func(sample bool, peers ...netip.AddrPort) *Reply {
		r := &Reply{Interval: time.Minute, TTL: 150 * time.Second, Count: len(peers), Sample: sample}
		if sample {
			r.Count *= 2
		}
		for _, p := range peers {
			r.Peers = append(r.Peers, Peer{Endpoint: p})
		}
		return r
	}
	var v view
	now := time.Now()
	v.update(reply(false, a, b), now, false)
	for range 10 {
		now = now.Add(time.Minute)
		if ev := v.update(reply(true, b), now, false); len(ev) > 0 {
			t.Fatalf("a sample: %v", ev)
		}
	}
	now = now.Add(time.Minute)
	v.restarted(now)
	if ev := v.update(reply(false, b), now, false); len(ev) > 0 {
		t.Errorf("at once after a restart: %v", ev)
	}
	now = now.Add(149 * time.Second)
	if ev := v.update(reply(false, b), now, false); len(ev) > 0 {
		t.Errorf("within a ttl of a restart: %v", ev)
	}
	now = now.Add(time.Second)
	if got := fmt.Sprint(v.update(reply(false, b), now, false)); got != "[{leave 192.0.2.1:1 [192.0.2.2:1]}]" {
		t.Errorf("after it: %v", got)
	}
}
