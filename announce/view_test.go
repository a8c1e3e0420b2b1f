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
	told := ""
	v := view{change: func(e netip.AddrPort, there bool) { told += fmt.Sprint(e, there, " ") }}
	update := func(now time.Time, share float64, peers ...netip.AddrPort) string {
		told = ""
		v.update(peers, share, now)
		return told
	}
	now := time.Now()
	update(now, 1, a, b)
	for range 10 {
		now = now.Add(time.Minute)
		if ev := update(now, 0.5, b); ev != "" {
			t.Fatalf("a sample: %v", ev)
		}
	}
	now = now.Add(time.Minute)
	v.restarted()
	if ev := update(now, 1, b); ev != "" {
		t.Errorf("at once after a restart: %v", ev)
	}
	now = now.Add(149 * time.Second)
	if ev := update(now, 1, b); ev != "" {
		t.Errorf("within a ttl of a restart: %v", ev)
	}
	now = now.Add(time.Second)
	if got := update(now, 1, b); got != "192.0.2.1:1 false " {
		t.Errorf("after it: %v", got)
	}
}
