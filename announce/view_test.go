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

// A process that was stopped, for whatever time, reads what came meanwhile before it reports leaves.
func TestStoppedWatch(t *testing.T) {
	a, b := netip.MustParseAddrPort("192.0.2.1:1"), netip.MustParseAddrPort("192.0.2.2:1")
	self := netip.MustParseAddrPort("192.0.2.9:9")
	for _, c := range []struct {
		what  string
		begin func(r, other *route)
	}{
		{"a tracker was restarted", func(r, _ *route) { r.listed("later", self, []netip.AddrPort{a}) }},
		{"one of two is away", func(r, other *route) {
			other.listed("other", self, []netip.AddrPort{a})
			r.lost()
		}},
	} {
		for _, stopped := range []time.Duration{time.Second, time.Minute, 10 * time.Hour} {
			for _, back := range []bool{true, false} {
				m := newMerged()
				r, other := m.add(Tracker{}).add(), m.add(Tracker{}).add()
				other.state = up
				r.listed("run", self, []netip.AddrPort{a, b})
				m.take(time.Now().Add(time.Hour)) // peers
				m.next, m.resumed = time.Time{}, time.Time{}
				c.begin(r, other)
				told, next := m.take(time.Now())
				if len(told) > 0 || next.IsZero() {
					t.Fatalf("%s: %v, next at %v", c.what, told, next)
				}
				now := next.Add(stopped)
				for range 3 { // whatever wakes it
					if told, next = m.take(now); len(told) > 0 || next.IsZero() || next.After(now.Add(3*time.Second)) {
						t.Errorf("%s, stopped for %v: %v, next at %v of %v", c.what, stopped, told, next, now)
					}
				}
				if back {
					r.changed([]netip.AddrPort{b}, true)
					other.changed([]netip.AddrPort{b}, true)
				}
				told, _ = m.take(next.Add(100 * time.Millisecond))
				if left := len(told) == 1 && told[0].event.Type == EventLeave && told[0].event.Peer == b; left == back || back && len(told) > 0 {
					t.Errorf("%s, stopped for %v, come back %v: %v", c.what, stopped, back, told)
				}
			}
		}
	}
}
