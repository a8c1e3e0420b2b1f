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

func lapse(t *testing.T, s *tester) {
	s.announce("k", "192.0.2.1:1", 0)
	time.Sleep(100 * time.Second)
	s.announce("k", "192.0.2.2:1", 0)
	s.announceFor(10*time.Second, "k", wire.Peer{Endpoint: netip.MustParseAddrPort("192.0.2.2:1")}, 0)
	time.Sleep(49 * time.Second)
	s.expectLook("within the ttl", "k", "192.0.2.9", "192.0.2.1:1 192.0.2.2:1")
	time.Sleep(2 * time.Second)
	s.expectLook("one has lapsed", "k", "192.0.2.9", "192.0.2.2:1")
	s.expect("scrape", s.index("192.0.2.9", "k"), `"k":1`)
	time.Sleep(98 * time.Second)
	s.expectLook("renewed for a shorter time", "k", "192.0.2.9", "192.0.2.2:1")
	time.Sleep(2 * time.Second)
	s.expectLook("both have lapsed", "k", "192.0.2.9", "")
	s.expect("index", s.index("192.0.2.9"), "")
	if _, r := s.announce("k", "192.0.2.1:1", 0); r.Count != 1 {
		t.Errorf("a peer that lapsed comes back: %+v", r)
	}
}

// lapsed has large and small tracks lapse, all at once or a few at a time, and looks at every call
// that gives a count.
func lapsed(t *testing.T, s *tester) {
	expect := func(what, key string, peers int) {
		t.Helper()
		for _, want := range []int{0, 1, 2000} {
			given, r := s.look(key, "192.0.2.9", want)
			if len(given) != min(want, peers) || r.Count != peers || s.exact && (r.Size.Peers != peers || r.Size.Total != peers) {
				t.Errorf("%s: %d of %d wanted, %+v; want %d peers in all", what, len(given), want, r, peers)
			}
		}
		s.expect(what, s.index("192.0.2.9", key), fmt.Sprintf("%q:%d", key, peers))
		list := ""
		if peers > 0 {
			list = fmt.Sprintf("%q:%d", key, peers)
		}
		if all := s.index("192.0.2.9"); !strings.Contains(all, list) || peers == 0 && strings.Contains(all, strconv.Quote(key)) {
			t.Errorf("%s: the index is %s, want %s", what, all, list)
		}
	}
	for _, n := range []int{10, 1000, 1001, 1500, 2500} {
		for _, fraction := range []time.Duration{0, 10 * time.Millisecond, 990 * time.Millisecond} {
			time.Sleep(fraction)
			key := fmt.Sprintf("%d at %v", n, fraction)
			for i := range n {
				p := numbered(i)
				if i%3 == 0 {
					p = wide(i)
				}
				d := 3 * time.Second
				if i%5 == 0 {
					d = 20 * time.Second
				}
				s.announceFor(d, key, p, 0)
			}
			long := (n + 4) / 5
			time.Sleep(2900 * time.Millisecond)
			expect("just before", key, n)
			time.Sleep(100*time.Millisecond + tolerance)
			synctest.Wait()
			expect("one second late", key, long)
			p := wire.Peer{Endpoint: netip.MustParseAddrPort("198.51.100.1:1")}
			if _, r := s.announceFor(2*time.Second, key, p, 0); r.Count != long+1 || s.exact && (r.Size.Peers != long+1 || r.Size.Total != long+1) {
				t.Errorf("one joins: %+v, want %d", r, long+1)
			}
			time.Sleep(2*time.Second + tolerance)
			synctest.Wait()
			expect("one more has lapsed", key, long)
			time.Sleep(14 * time.Second)
			synctest.Wait()
			expect("all have", key, 0)
		}
	}
}

// eachInTime has many tracks, some of them followed, whose peers lapse one after the other and are
// renewed now and then. Every count is right at every second.
func eachInTime(t *testing.T, s *tester) {
	const tracks, peers, seconds = 300, 3, 40
	r := rand.New(rand.NewPCG(1, 2))
	expiry := map[string][]int{}
	key := func(k int) string { return fmt.Sprintf("track %d", k) }
	var subscribers []*subscriber
	for k := range tracks {
		expiry[key(k)] = make([]int, peers)
		if k%10 == 0 {
			f, _ := s.subscribe(key(k), "192.0.2.9:0")
			subscribers = append(subscribers, f)
		}
	}
	time.Sleep(500 * time.Millisecond) // between whole seconds, when nothing lapses
	for second := range seconds {
		for k := range tracks {
			for i := range peers {
				if d := 1 + r.IntN(seconds); second == 0 || r.IntN(20) == 0 {
					expiry[key(k)][i] = max(expiry[key(k)][i], second+d)
					s.announceFor(time.Duration(d)*time.Second-500*time.Millisecond, key(k), numbered(i), 0)
				}
			}
		}
		time.Sleep(500 * time.Millisecond)
		synctest.Wait()
		time.Sleep(500 * time.Millisecond)
		synctest.Wait()
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
		if _, r := s.look("nothing", "192.0.2.9", 0); s.exact && r.Size.Total != total {
			t.Fatalf("after %d s there are %d peers, want %d", second+1, r.Size.Total, total)
		}
		for _, f := range subscribers {
			if f.next(); len(f.sees) != remaining(f.key) {
				t.Fatalf("after %d s %s has %d peers, and a follower sees %d", second+1, f.key, remaining(f.key), len(f.sees))
			}
		}
	}
	for _, f := range subscribers {
		f.Close()
	}
}

// longest has a ttl that is longer than the clock of any store. The peer stays for 4 hours at
// least, and a renewal by a shorter ttl does not bring its lapse nearer.
func longest(t *testing.T, s *tester) {
	const years = 10 * 365 * 24 * time.Hour
	s.announceFor(years, "k", numbered(1), 0)
	s.announceFor(time.Minute, "k", numbered(1), 0)
	w, _ := s.subscribe("k", "192.0.2.9:0")
	for range 4 {
		time.Sleep(time.Hour - time.Second)
		s.expectLook("each hour", "k", "192.0.2.9", show([]wire.Peer{numbered(1)}))
	}
	s.announceFor(years, "k", numbered(1), 0)
	f, _ := s.subscribe("k", numbered(1).Endpoint.String())
	s.announceFor(years, "k", numbered(1), 0)
	f.Close()
	for range 4 {
		time.Sleep(time.Hour - time.Second)
		s.expectLook("each hour after a renewal", "k", "192.0.2.9", show([]wire.Peer{numbered(1)}))
	}
	s.expect("no leave", w.next(), "")
	w.Close()
}

// forDays renews some peers for longer than a small clock lasts. Others come once.
func forDays(t *testing.T, s *tester) {
	for hour := range 40 {
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
