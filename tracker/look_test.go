package tracker_test

import (
	"net/netip"
	"testing"

	"ntrack/announce/wire"
	"ntrack/tracker"
)

// A look for another protocol sees what a client of the tracker does, however its address is written, and
// no more peers than the tracker reports.
func TestLookOfOtherProtocol(t *testing.T) {
	tr := tracker.Tracker{MaxWant: 2}
	for _, target := range []string{"/ntrk/k?port=1", "/ntrk/k?port=2", "/ntrk/k?port=3", "/ntrk/denied?port=1"} {
		tr.Answer(t.Context(), &tracker.Call{Method: "GET", Target: []byte(target), Remote: netip.MustParseAddrPort("127.0.0.1:1")}, nil)
	}
	tr.Answer(t.Context(), &tracker.Call{Method: "GET", Target: []byte("/ntrk/far?port=1"), Remote: netip.MustParseAddrPort("198.51.100.1:1")}, nil)
	denial, err := tracker.ParseDenial("net 192.0.2.0/24\nnet fe80::bad/128\nkey denied")
	if err != nil {
		t.Fatal(err)
	}
	if err := tr.SetDenial(t.Context(), denial); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		key, from    string
		count, peers int
		refused      bool
	}{
		{"k", "127.0.0.1", 3, 2, false},
		{"k", "::ffff:127.0.0.1", 3, 2, false},
		{"k", "fe80::1%eth0", 0, 0, false},
		{"k", "198.51.100.1", 0, 0, false},
		{"far", "fe80::1%eth0", 1, 1, false},
		{"denied", "127.0.0.1", 0, 0, false},
		{"far", "192.0.2.1", 0, 0, true},
		{"far", "::ffff:192.0.2.1", 0, 0, true},
		{"far", "fe80::bad%eth0", 0, 0, true},
	} {
		for _, want := range []int{1, 2, 100} {
			peers, count, err := tr.Look(t.Context(), []byte(tt.key), netip.MustParseAddr(tt.from), want, nil)
			if _, refused := err.(*wire.RefusalError); count != tt.count || len(peers) != min(want, tt.peers) || refused != tt.refused {
				t.Errorf("%s looks for %d of %s: %v of %d, %v", tt.from, want, tt.key, peers, count, err)
			}
		}
	}
}
