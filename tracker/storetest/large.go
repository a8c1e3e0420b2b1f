package storetest

import (
	"net/netip"
	"testing"
	"time"

	"ntrack/announce"
)

// settle is how long the count of a track above 1,000 peers may be behind.
const settle = 10 * time.Second

func numbered(i int) announce.Peer {
	return announce.Peer{Endpoint: netip.AddrPortFrom(netip.AddrFrom4([4]byte{203, byte(i >> 16), byte(i >> 8), byte(i)}), 6881)}
}

// large has a track most of whose peers have just lapsed: they are never given, those that are
// left are given evenly, and the count comes right.
func large(t *testing.T, s *store) {
	const n, left, want, rounds = 20_000, 500, 20, 2000
	for i := range n {
		d := 20*time.Second + time.Duration(i%7)*time.Second
		if i%(n/left) == 0 {
			d = time.Hour
		}
		s.announceFor(d, "k", numbered(i), 0)
	}
	s.expect("before", s.index("192.0.2.9", "k"), `"k":20000`)
	time.Sleep(27 * time.Second)
	given := map[netip.AddrPort]int{}
	draw := func() {
		peers, count := s.look("k", "192.0.2.9", want)
		if len(peers) != want || count < left || count > n {
			t.Fatalf("%d peers of %d", len(peers), count)
		}
		for _, p := range peers {
			given[p.Endpoint]++
		}
	}
	for range rounds / 2 {
		draw()
	}
	// An announcer who has lapsed has joined, whatever is left of him: this one was the last.
	if _, r := s.announceFor(time.Second, "k", numbered(6), 0); !r.Joined {
		t.Error("one who lapsed and comes back has joined")
	}
	time.Sleep(settle)
	s.expect("after", s.index("192.0.2.9", "k"), `"k":500`)
	for range rounds / 2 {
		draw()
	}
	expected, chi := float64(rounds*want)/left, 0.0
	for i := 0; i < n; i += n / left {
		d := float64(given[numbered(i).Endpoint]) - expected
		chi += d * d / expected
		delete(given, numbered(i).Endpoint)
	}
	if len(given) > 0 {
		t.Errorf("%d peers were given that had lapsed", len(given))
	}
	if chi > 700 { // 499 degrees of freedom: less than once in a hundred million runs
		t.Errorf("chi-square %.0f: some peers are given more often than others", chi)
	}
	time.Sleep(time.Hour)
	s.expectLook("in the end", "k", "192.0.2.9", "")
	s.expect("in the end", s.index("192.0.2.9"), "")
}

// oneFamily has a track whose peers in one family have lapsed: the other makes up for them.
func oneFamily(t *testing.T, s *store) {
	for i := range 2000 {
		s.announceFor(time.Second, "k", numbered(i), 0)
		wide := numbered(i).Endpoint.Addr().As4()
		s.announceFor(ttl, "k", announce.Peer{Endpoint: netip.AddrPortFrom(netip.AddrFrom16([16]byte{0x20, 1, 12: wide[0], wide[1], wide[2], wide[3]}), 1)}, 0)
		s.announceFor(time.Second, "l", announce.Peer{Endpoint: netip.AddrPortFrom(netip.AddrFrom16([16]byte{0x20, 1, 12: wide[0], wide[1], wide[2], wide[3]}), 1)}, 0)
		s.announceFor(ttl, "l", numbered(i), 0)
	}
	time.Sleep(time.Second)
	for range 20 {
		for _, key := range []string{"k", "l"} {
			if peers, _ := s.look(key, "192.0.2.9", 50); len(peers) != 50 {
				t.Fatalf("%d peers of 2000", len(peers))
			}
		}
	}
}

// forDays renews some peers for longer than any small clock lasts, among others that come once.
func forDays(t *testing.T, s *store) {
	for hour := range 40 {
		for range 2 {
			s.announceFor(75*time.Minute, "k", numbered(1), 0)
			s.announceFor(75*time.Minute, "k", numbered(2), 0)
			time.Sleep(30 * time.Minute)
		}
		s.announce("k", numbered(10+hour).Endpoint.String(), 0)
		s.expectLook("each hour", "k", "192.0.2.9", show([]announce.Peer{numbered(1), numbered(2), numbered(10 + hour)}))
		if t.Failed() {
			t.Fatalf("after %d hours", hour)
		}
	}
	time.Sleep(45*time.Minute + time.Second)
	s.expect("in the end", s.index("192.0.2.9"), "")
}
