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
	"ntrack/tracker/store"
)

// settle is how long whoever has lapsed may still be given or counted.
const settle = time.Second

func numbered(i int) wire.Peer {
	return wire.Peer{Endpoint: netip.AddrPortFrom(netip.AddrFrom4([4]byte{203, byte(i >> 16), byte(i >> 8), byte(i)}), 6881)}
}

// large has a track most of whose peers have just lapsed: they are never given, those that are
// left are given evenly, and the count comes right.
func large(t *testing.T, s *tester) {
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
	// A peer that has just lapsed, this one last of all, may come back for a second.
	s.announceFor(time.Second, "k", numbered(6), 0)
	if peers, _ := s.look("k", "192.0.2.9", n); !strings.Contains(show(peers), show([]wire.Peer{numbered(6)})) {
		t.Error("a peer that lapsed and came back is not there")
	}
	time.Sleep(time.Second + settle)
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

// counts has large tracks and small ones lapse, all at once or a few at a time, and looks wherever a
// count is given. Who is left is still counted, and no reply passes for a sample.
func counts(t *testing.T, s *tester) {
	expect := func(what, key string, peers, total int) {
		t.Helper()
		for _, want := range []int{0, 1, 2000} {
			given, r, err := s.Look(t.Context(), []byte(key), netip.MustParseAddr("192.0.2.9"), store.Want{Peers: want}, nil)
			if err != nil {
				t.Fatal(err)
			}
			if len(given) != min(want, peers) || r.Count != peers || r.Size.Peers != peers || r.Size.Total != total {
				t.Errorf("%s: %d of %d wanted, %+v; want %d of %d peers in all", what, len(given), want, r, peers, total)
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
					wide := p.Endpoint.Addr().As4()
					p.Endpoint = netip.AddrPortFrom(netip.AddrFrom16([16]byte{0x20, 1, 12: wide[0], wide[1], wide[2], wide[3]}), 1)
				}
				d := 3 * time.Second
				if i%5 == 0 {
					d = 20 * time.Second
				}
				s.announceFor(d, key, p, 0)
			}
			long := (n + 4) / 5
			time.Sleep(2900 * time.Millisecond)
			expect("just before", key, n, n)
			time.Sleep(100*time.Millisecond + settle)
			synctest.Wait()
			expect("one second late", key, long, long)
			p := wire.Peer{Endpoint: netip.MustParseAddrPort("198.51.100.1:1")}
			if _, r := s.announceFor(2*time.Second, key, p, 0); r.Count != long+1 || r.Size.Peers != long+1 || r.Size.Total != long+1 {
				t.Errorf("one joins: %+v, want %d", r, long+1)
			}
			time.Sleep(2*time.Second + settle)
			synctest.Wait()
			expect("one more has lapsed", key, long, long)
			time.Sleep(14 * time.Second)
			synctest.Wait()
			expect("all have", key, 0, 0)
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
	var followers []*follower
	for k := range tracks {
		expiry[key(k)] = make([]int, peers)
		if k%10 == 0 {
			f, _ := s.subscribe(key(k), "192.0.2.9:0")
			followers = append(followers, f)
		}
	}
	time.Sleep(500 * time.Millisecond) // between the seconds, where nothing lapses
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
		left := func(key string) (n int) {
			for _, e := range expiry[key] {
				if e > second+1 {
					n++
				}
			}
			return n
		}
		total := 0
		for key := range expiry {
			total += left(key)
		}
		_, res, err := s.Look(t.Context(), []byte("nothing"), netip.MustParseAddr("192.0.2.9"), store.Want{}, nil)
		if err != nil || res.Size.Total != total {
			t.Fatalf("after %d s there are %d of %d peers, %v", second+1, res.Size.Total, total, err)
		}
		for _, f := range followers {
			if f.next(); len(f.view) != left(f.key) {
				t.Fatalf("after %d s %s has %d peers, and a follower sees %d", second+1, f.key, left(f.key), len(f.view))
			}
		}
	}
	for _, f := range followers {
		f.sub.Close()
	}
}

// longest has a ttl that is longer than any clock of a store: a peer stays for 4 hours at least, and
// a renewal by a shorter one does not bring the end nearer.
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
	f.sub.Close()
	for range 4 {
		time.Sleep(time.Hour - time.Second)
		s.expectLook("each hour after a renewal", "k", "192.0.2.9", show([]wire.Peer{numbered(1)}))
	}
	s.expect("nobody has left", w.next(), "")
	w.sub.Close()
}

// oneFamily has a track whose peers in one family have lapsed: the other makes up for them.
func oneFamily(t *testing.T, s *tester) {
	for i := range 2000 {
		s.announceFor(time.Second, "k", numbered(i), 0)
		wide := numbered(i).Endpoint.Addr().As4()
		s.announceFor(ttl, "k", wire.Peer{Endpoint: netip.AddrPortFrom(netip.AddrFrom16([16]byte{0x20, 1, 12: wide[0], wide[1], wide[2], wide[3]}), 1)}, 0)
		s.announceFor(time.Second, "l", wire.Peer{Endpoint: netip.AddrPortFrom(netip.AddrFrom16([16]byte{0x20, 1, 12: wide[0], wide[1], wide[2], wide[3]}), 1)}, 0)
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
