package storetest

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"ntrack/announce/wire"
)

// sample draws so often that a store that favors some peers fails. The chi-square statistic of 300
// peers (299 degrees of freedom) exceeds 450 by chance once in ten million runs.
func sample(t *testing.T, s *tester) {
	const n, want, rounds = 300, 20, 3000
	for i := range n {
		s.announceFor(time.Hour, "k", numbered(i), 0)
	}
	given := map[netip.AddrPort]int{}
	last, repeated := "", 0
	for range rounds {
		peers, r := s.look("k", "192.0.2.9", want)
		if len(peers) != want || r.Count != n {
			t.Fatalf("a look gets %d peers of %d", len(peers), r.Count)
		}
		drawn := map[netip.AddrPort]bool{}
		for _, p := range peers {
			given[p.Endpoint]++
			drawn[p.Endpoint] = true
		}
		if len(drawn) != want {
			t.Fatal("a sample has a peer twice")
		}
		if now := show(peers); now == last {
			repeated++
		} else {
			last = now
		}
	}
	if repeated > 0 {
		t.Errorf("%d samples have the same peers as the sample before", repeated)
	}
	if chi := chiSquare(given, n, 1, rounds*want); chi > 450 {
		t.Errorf("chi-square %.0f: some peers are given more often than others", chi)
	}
}

// chiSquare is the chi-square statistic of how often the peers with the numbers 0, step, 2*step and
// so on below n were given, in this many draws. It removes these peers from given.
func chiSquare(given map[netip.AddrPort]int, n, step, drawn int) (chi float64) {
	expected := float64(drawn) / float64(n/step)
	for i := 0; i < n; i += step {
		d := float64(given[numbered(i).Endpoint]) - expected
		chi += d * d / expected
		delete(given, numbered(i).Endpoint)
	}
	return chi
}

// sampleLapsed has a track most of whose peers have just lapsed. A store must not return them, and
// must return the remaining peers evenly.
func sampleLapsed(t *testing.T, s *tester) {
	const n, remaining, want, rounds = 20_000, 500, 20, 2000
	s.together(n, func(i int) {
		d := 20*time.Second + time.Duration(i%7)*time.Second
		if i%(n/remaining) == 0 {
			d = time.Hour
		}
		s.announceFor(d, "k", numbered(i), 0)
	})
	s.expect("before a peer lapses", s.index("192.0.2.9", "k"), `"k":20000`)
	time.Sleep(27 * time.Second)
	given := map[netip.AddrPort]int{}
	draw := func() {
		peers, r := s.look("k", "192.0.2.9", want)
		if len(peers) != want || r.Count < remaining || r.Count > n {
			t.Fatalf("a look gets %d peers of %d", len(peers), r.Count)
		}
		for _, p := range peers {
			given[p.Endpoint]++
		}
	}
	for range rounds / 2 {
		draw()
	}

	// Peer 6 has just lapsed, as one of the last. It joins again for a second.
	s.announceFor(time.Second, "k", numbered(6), 0)
	if peers, _ := s.look("k", "192.0.2.9", n); !strings.Contains(show(peers), show([]wire.Peer{numbered(6)})) {
		t.Error("a lapsed peer has joined again and is not listed")
	}
	time.Sleep(time.Second + tolerance)
	s.expect("after most peers have lapsed", s.index("192.0.2.9", "k"), `"k":500`)
	for range rounds / 2 {
		draw()
	}
	chi := chiSquare(given, n, n/remaining, rounds*want)
	if len(given) > 0 {
		t.Errorf("%d lapsed peers were given", len(given))
	}
	if chi > 700 { // with 499 degrees of freedom, less than once in a hundred million runs
		t.Errorf("chi-square %.0f: some peers are given more often than others", chi)
	}
	time.Sleep(time.Hour)
	s.expectLook("in the end", "k", "192.0.2.9", "")
	s.expect("in the end", s.index("192.0.2.9"), "")
}

// quarter adds IPv6 peers to 200 IPv4 peers. IPv6 gets at most a quarter of a sample while it has
// few peers, and IPv4 gets at least a quarter when it has fewer.
func quarter(t *testing.T, s *tester) {
	for i := range 200 {
		s.announce("k", fmt.Sprintf("192.0.2.1:%d", i+1), 0)
	}
	families := func(want int) (n4, n6 int) {
		peers, _ := s.look("k", "192.0.2.9", want)
		for _, p := range peers {
			if p.Endpoint.Addr().Is4() {
				n4++
			} else {
				n6++
			}
		}
		return n4, n6
	}
	for i, want6 := range []int{1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 13, 13} {
		s.announce("k", fmt.Sprintf("[2001:db8::1]:%d", i+1), 0)
		if n4, n6 := families(50); n4 != 50-want6 || n6 != want6 {
			t.Errorf("with %d IPv6 peers: %d and %d given, want %d and %d", i+1, n4, n6, 50-want6, want6)
		}
	}
	for i := range 400 {
		s.announce("k", fmt.Sprintf("[2001:db8::2]:%d", i+1), 0)
	}
	if n4, n6 := families(50); n4+n6 != 50 || n4 < 13 || n6 < 13 {
		t.Errorf("with 415 IPv6 peers: %d and %d given", n4, n6)
	}
	sum4, sum6 := 0, 0
	for range 200 {
		n4, n6 := families(1)
		sum4, sum6 = sum4+n4, sum6+n6
	}
	if sum4+sum6 != 200 || sum4 == 0 || sum6 == 0 {
		t.Errorf("200 samples of one peer: %d and %d given", sum4, sum6)
	}
	if n4, n6 := families(1000); n4 != 200 || n6 != 415 {
		t.Errorf("all peers: %d and %d given", n4, n6)
	}
}

// oneFamily has tracks of which one family has just lapsed. A sample must have peers of the other
// family instead.
func oneFamily(t *testing.T, s *tester) {
	s.together(2000, func(i int) {
		s.announceFor(time.Second, "6", numbered(i), 0)
		s.announceFor(ttl, "6", numberedIPv6(i), 0)
		s.announceFor(time.Second, "4", numberedIPv6(i), 0)
		s.announceFor(ttl, "4", numbered(i), 0)
	})
	time.Sleep(time.Second)
	for range 20 {
		for _, key := range []string{"4", "6"} {
			if peers, _ := s.look(key, "192.0.2.9", 50); len(peers) != 50 {
				t.Fatalf("a sample of 50 has %d peers of IPv%s", len(peers), key)
			}
		}
	}
}
