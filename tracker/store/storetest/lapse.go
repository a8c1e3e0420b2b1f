package storetest

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"ntrack/announce/wire"
)

// listedForTTL checks that each of two peers is listed until its ttl ends. The second peer renews for a
// shorter ttl, which must not end its first one.
func listedForTTL(t *testing.T, s *tester) {
	const between = 100 * time.Second // the second peer comes this much later
	s.announce("k", "192.0.2.1:1", 0)
	time.Sleep(between)
	s.announce("k", "192.0.2.2:1", 0)
	s.announceFor(10*time.Second, "k", wire.Peer{Endpoint: netip.MustParseAddrPort("192.0.2.2:1")}, 0)
	time.Sleep(ttl - between - time.Second)
	s.expectLook("before the first peer lapses", "k", "192.0.2.9", "192.0.2.1:1 192.0.2.2:1")
	time.Sleep(2 * time.Second)
	s.expectLook("after the first peer has lapsed", "k", "192.0.2.9", "192.0.2.2:1")
	s.expect("a scrape then", s.index("192.0.2.9", "k"), `"k":1`)
	time.Sleep(between - 2*time.Second)
	s.expectLook("before the longer ttl of the second peer ends", "k", "192.0.2.9", "192.0.2.2:1")
	time.Sleep(2 * time.Second)
	s.expectLook("after both have lapsed", "k", "192.0.2.9", "")
	s.expect("all tracks then", s.index("192.0.2.9"), "")
	if _, r := s.announce("k", "192.0.2.1:1", 0); r.Count != 1 {
		t.Errorf("a lapsed peer joins again: %+v", r)
	}
}

// countsAfterLapses checks every call that returns a count, after peers of small and large tracks have
// lapsed, many together and one alone.
func countsAfterLapses(t *testing.T, s *tester) {
	expect := func(what, key string, peers int) {
		t.Helper()
		for _, want := range []int{0, 1, 2000} {
			given, r := s.look(key, "192.0.2.9", want)
			if len(given) != min(want, peers) || r.Count != peers || s.exact && (r.Size.Peers != peers || r.Size.Total != peers) {
				t.Errorf("%s: a look for %d peers gets %d and %+v; the track has %d", what, want, len(given), r, peers)
			}
		}
		s.expect(what, s.index("192.0.2.9", key), fmt.Sprintf("%q:%d", key, peers))
		all := s.index("192.0.2.9")
		if entry := fmt.Sprintf("%q:%d", key, peers); peers > 0 && !strings.Contains(all, entry) {
			t.Errorf("%s: all tracks are %s, want %s in them", what, all, entry)
		}
		if peers == 0 && strings.Contains(all, strconv.Quote(key)) {
			t.Errorf("%s: all tracks are %s, and this one has no peers", what, all)
		}
	}
	for _, n := range []int{10, 1000, 1001, 1500, 2500} { // a store may treat more than 1000 peers in its own way
		for _, later := range []time.Duration{0, 10 * time.Millisecond, 990 * time.Millisecond} { // within a second
			time.Sleep(later)
			key := fmt.Sprintf("%d peers, %v after the last track", n, later)
			s.together(n, func(i int) {
				p := numbered(i)
				if i%3 == 0 {
					p = numberedIPv6(i)
				}
				d := 3 * time.Second
				if i%5 == 0 {
					d = 20 * time.Second
				}
				s.announceFor(d, key, p, 0)
			})
			remaining := (n + 4) / 5 // the peers with the longer ttl
			time.Sleep(2900 * time.Millisecond)
			expect("before the shorter ttl ends", key, n)
			time.Sleep(100*time.Millisecond + tolerance)
			synctest.Wait()
			expect("a second after the shorter ttl", key, remaining)
			p := wire.Peer{Endpoint: netip.MustParseAddrPort("198.51.100.1:1")}
			if _, r := s.announceFor(2*time.Second, key, p, 0); r.Count != remaining+1 || s.exact && (r.Size.Peers != remaining+1 || r.Size.Total != remaining+1) {
				t.Errorf("another peer joins: %+v, want %d peers", r, remaining+1)
			}
			time.Sleep(2*time.Second + tolerance)
			synctest.Wait()
			expect("after that peer has lapsed", key, remaining)
			time.Sleep(14 * time.Second) // with the waits above, more than the longer ttl
			synctest.Wait()
			expect("after all have lapsed", key, 0)
		}
	}
}

// countsEverySecond has many tracks, some with a subscriber. Their peers lapse at different seconds, and
// are renewed now and then. It checks every count at every second.
func countsEverySecond(t *testing.T, s *tester) {
	const tracks, peers, seconds = 300, 3, 40
	r := rand.New(rand.NewPCG(1, 2))
	expiry := map[string][]int{}
	key := func(k int) string { return fmt.Sprintf("track %d", k) }
	var subscribers []*subscriber
	for k := range tracks {
		expiry[key(k)] = make([]int, peers)
		if k%10 == 0 {
			sub, _ := s.subscribe(key(k), "192.0.2.9:0")
			subscribers = append(subscribers, sub)
		}
	}
	time.Sleep(500 * time.Millisecond) // calls are at half seconds, and lapses at whole ones
	for second := range seconds {
		for k := range tracks {
			for i := range peers {
				if d := 1 + r.IntN(seconds); second == 0 || r.IntN(20) == 0 {
					expiry[key(k)][i] = max(expiry[key(k)][i], second+d)
					s.announceFor(time.Duration(d)*time.Second-500*time.Millisecond, key(k), numbered(i), 0)
				}
			}
		}
		for range 2 { // at the whole second, let the store finish its work before time goes on
			time.Sleep(500 * time.Millisecond)
			synctest.Wait()
		}
		remaining := func(key string) (n int) {
			for _, e := range expiry[key] {
				if e > second+1 {
					n++
				}
			}
			return n
		}
		total := 0
		for key := range expiry {
			n := remaining(key)
			total += n
			if _, r := s.look(key, "192.0.2.9", 0); r.Count != n {
				t.Fatalf("after %d s %s has %d peers, want %d", second+1, key, r.Count, n)
			}
		}
		if _, r := s.look("any key", "192.0.2.9", 0); s.exact && r.Size.Total != total {
			t.Fatalf("after %d s there are %d peers, want %d", second+1, r.Size.Total, total)
		}
		for _, sub := range subscribers {
			if sub.next(); len(sub.sees) != remaining(sub.key) {
				t.Fatalf("after %d s %s has %d peers, and a subscriber sees %d", second+1, sub.key, remaining(sub.key), len(sub.sees))
			}
		}
	}
	for _, sub := range subscribers {
		sub.Close()
	}
}

// longest announces a peer for ten years. A store need not keep it for that long, but must keep it for
// 4 hours. Neither a renewal with a shorter ttl nor the end of a subscription may change that.
func longest(t *testing.T, s *tester) {
	const years = 10 * 365 * 24 * time.Hour
	s.announceFor(years, "k", numbered(1), 0)
	s.announceFor(time.Minute, "k", numbered(1), 0)
	watcher, _ := s.subscribe("k", "192.0.2.9:0")
	for range 4 {
		time.Sleep(time.Hour - time.Second)
		s.expectLook("in the first 4 hours", "k", "192.0.2.9", show([]wire.Peer{numbered(1)}))
	}
	s.announceFor(years, "k", numbered(1), 0)
	member, _ := s.subscribe("k", numbered(1).Endpoint.String())
	s.announceFor(years, "k", numbered(1), 0) // while a subscription holds the peer
	member.Close()
	for range 4 {
		time.Sleep(time.Hour - time.Second)
		s.expectLook("in the 4 hours after a renewal", "k", "192.0.2.9", show([]wire.Peer{numbered(1)}))
	}
	s.expect("the changes of 8 hours", watcher.next(), "")
	watcher.Close()
}

// forDays renews two peers for longer than 2^17 seconds, since a store may count seconds in few bits. It
// announces another peer once each hour.
func forDays(t *testing.T, s *tester) {
	for hour := range int(s.long(40*time.Hour) / time.Hour) {
		for range 2 {
			s.announceFor(75*time.Minute, "k", numbered(1), 0)
			s.announceFor(75*time.Minute, "k", numbered(2), 0)
			time.Sleep(30 * time.Minute)
		}
		s.announce("k", numbered(10+hour).Endpoint.String(), 0)
		s.expectLook("each hour", "k", "192.0.2.9", show([]wire.Peer{numbered(1), numbered(2), numbered(10 + hour)}))
		if t.Failed() {
			t.Fatalf("after %d hours", hour)
		}
	}
	time.Sleep(45*time.Minute + time.Second)
	s.expect("in the end", s.index("192.0.2.9"), "")
}
