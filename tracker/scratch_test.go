package tracker

import (
	"fmt"
	"net/netip"
	"testing"

	"ntrack/announce/wire"
	"ntrack/tracker/store"
)

// What one call leaves for the next is small, and keeps no key of the store alive.
func TestScratchStaysSmall(t *testing.T) {
	const n = 2 * maxKept
	tr := &Tracker{MaxWant: n, Index: true}
	ask := func(target string, args ...any) {
		t.Helper()
		call := Call{Method: "GET", Target: fmt.Appendf(nil, target, args...), Remote: netip.MustParseAddrPort("192.0.2.1:1")}
		if resp, body := tr.Answer(t.Context(), &call, nil); resp.Status != 200 {
			t.Fatalf("%d %s", resp.Status, body)
		}
	}
	kept := func(what string) {
		t.Helper()
		for range 64 { // as many as one processor may have had
			s := tr.scratch.Get().(*scratch)
			if cap(s.peers) > maxKept || cap(s.tracks) > maxKept {
				t.Errorf("%s: room for %d peers and %d tracks is kept", what, cap(s.peers), cap(s.tracks))
			}
			for _, track := range s.tracks[:cap(s.tracks)] {
				if len(track.Key.Bytes()) > 0 {
					t.Fatalf("%s: a key is kept: %v", what, track)
				}
			}
		}
	}
	for i := range 100 {
		ask("/ntrk/few%d?port=1&numwant=0", i)
	}
	ask("/ntrk/")
	kept("an index")
	for i := range n {
		ask("/ntrk/k?port=%d&numwant=0", 1+i)
		ask("/ntrk/%d?port=1&numwant=0", i)
	}
	ask("/ntrk/k?port=0&numwant=%d", n)
	kept("a large reply")
	ask("/ntrk/")
	kept("a large index")
}

// Unless told otherwise a tracker stays within 1000 announces per second, and below 0 is no limit.
func TestDefaultRate(t *testing.T) {
	for _, c := range []struct{ most, least, longest int }{{0, 18, 20}, {DefaultMaxRate, 18, 20}, {2 * DefaultMaxRate, 15, 15}, {-1, 15, 15}} {
		tr := &Tracker{MaxRate: c.most}
		tr.once.Do(tr.init)
		timing := tr.timing(&wire.Request{})
		if told := int(timing.interval(store.Size{Peers: 15_000, Total: 15_000}).Seconds()); told < c.least || told > c.longest {
			t.Errorf("MaxRate %d: %d s, want %d to %d s", c.most, told, c.least, c.longest)
		}
	}
}
