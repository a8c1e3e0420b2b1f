package memory_test

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"ntrack/announce/wire"
	"ntrack/tracker"
	"ntrack/tracker/store"
	"ntrack/tracker/store/memory"
)

// A stoppable is a tracker whose process seems to stop for a time, as by SIGSTOP.
type stoppable struct {
	*tracker.Tracker
	t    *testing.T
	stop func(time.Duration)
}

func newStoppable(t *testing.T, interval time.Duration) *stoppable {
	m, stop := memory.NewStoppable()
	return &stoppable{&tracker.Tracker{Store: m, Interval: interval, MaxWant: 2000, Index: true}, t, stop}
}

// ask sends a request from 192.0.2.N:1 and returns the body of the reply.
func (s *stoppable) ask(n byte, method, target string) string {
	s.t.Helper()
	call := tracker.Call{Method: method, Target: []byte(target), Remote: netip.AddrPortFrom(netip.AddrFrom4([4]byte{192, 0, 2, n}), 1)}
	resp, body := s.Answer(s.t.Context(), &call, nil)
	if resp.Status/100 != 2 {
		s.t.Fatalf("%s %s: %d, %s", method, target, resp.Status, body)
	}
	return string(body)
}

// expect expects that both the track k and the list of all tracks have this many peers.
func (s *stoppable) expect(what string, want int) {
	s.t.Helper()
	if got := strings.Count(s.ask(9, "GET", "/ntrk/k?port=0&format=text&numwant=2000"), "\n"); got != want {
		s.t.Errorf("%s: %d peers, want %d", what, got, want)
	}
	index := ""
	if want > 0 {
		index = fmt.Sprintf("k %d\n", want)
	}
	if got := s.ask(9, "GET", "/ntrk/?format=text"); got != index {
		s.t.Errorf("%s: all tracks are %q, want %q", what, got, index)
	}
}

// watch subscribes to the track k. It returns a function that expects these numbers of joins and
// leaves since its last call.
func (s *stoppable) watch() (changed func(joins, leaves int)) {
	s.t.Helper()
	_, _, sub, err := s.Store.Subscribe(s.t.Context(), []byte("k"), wire.Peer{Endpoint: netip.MustParseAddrPort("192.0.2.9:0")}, func() {}, nil)
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(sub.Close)
	return func(joins, leaves int) {
		s.t.Helper()
		time.Sleep(100 * time.Millisecond)
		changes, live := allChanges(sub)
		for _, c := range changes {
			if c.Joined {
				joins--
			} else {
				leaves--
			}
		}
		if joins != 0 || leaves != 0 || !live {
			s.t.Errorf("%d joins and %d leaves are missing; live: %v", joins, leaves, live)
		}
	}
}

// No peer lapses because the process is stopped, for however long, and whatever happens first after
// the gap. A peer that does not renew after the gap lapses as usual.
func TestStopped(t *testing.T) {
	for _, n := range []int{3, 1500} { // a small track and a large one
		for _, gap := range []time.Duration{
			1200 * time.Millisecond, 3 * time.Second, time.Minute, time.Hour, 4*time.Hour + 30*time.Minute,
			4*time.Hour + 36*time.Minute, 7 * time.Hour, 9 * time.Hour, 9*time.Hour + 6*time.Minute, 40 * 24 * time.Hour,
		} {
			t.Run(fmt.Sprintf("%d peers for %v", n, gap), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					s := newStoppable(t, time.Second) // a ttl of 3 s
					changed := s.watch()
					renew := func() {
						for i := range n {
							s.ask(byte(1+i%2), "GET", fmt.Sprintf("/ntrk/k?numwant=0&port=%d", 1+i))
						}
					}
					for _, first := range []string{"a look", "almost a tick", "the announces"} {
						renew()
						time.Sleep(time.Second) // an interval, after which the peers renew
						changed(n, 0)
						s.stop(gap)
						switch first {
						case "a look":
							s.expect("a look comes first", n)
						case "almost a tick":
							time.Sleep(240 * time.Millisecond)
						}
						renew()
						s.expect("after "+first, n)
						changed(0, 0)
						// The ttl, a second that the store may take, and one that the clock loses after a gap.
						time.Sleep((3 + 1 + 1) * time.Second)
						s.expect("after 5 seconds without a renewal", 0)
						changed(0, n)
					}
				})
			})
		}
	}
}

// A peer may leave right after a gap. A peer that does not renew lapses in spite of many gaps.
func TestStoppedForgets(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newStoppable(t, time.Minute) // a ttl of 150 s
		s.ask(1, "GET", "/ntrk/k?port=1")
		time.Sleep(100 * time.Second)
		s.ask(1, "GET", "/ntrk/k?port=2")
		for range 10 { // each of these gaps counts for 1.25 seconds
			s.stop(time.Hour)
			time.Sleep(time.Second)
		}
		s.expect("after ten gaps", 2)
		s.stop(5 * time.Hour)
		s.ask(1, "DELETE", "/ntrk/k?port=2")
		s.expect("after a leave", 1)
		time.Sleep(40 * time.Second)
		s.expect("after the ttl of the other peer", 0)
	})
}

// During a long gap clients close their event streams, and after it they connect again. The server
// notices the closed streams after the gap. The peers must stay listed in between.
func TestStoppedStreams(t *testing.T) {
	for _, c := range []struct {
		gap   time.Duration
		after time.Duration // from the end of the gap to the end of the subscription
		stays time.Duration // from the end of the subscription to the leave of the peer
	}{
		{0, 0, 0},
		{10 * time.Second, 0, 0}, // too short for a client to close its stream
		{25 * time.Second, 0, 30 * time.Second},
		{25 * time.Second, time.Second, 30 * time.Second},
		{9 * time.Hour, 2 * time.Second, 30 * time.Second},
		{25 * time.Second, 10 * time.Second, 0}, // the client has closed its stream after the gap
	} {
		t.Run(fmt.Sprint(c), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newStoppable(t, time.Minute)
				join := func() store.Subscription {
					_, _, sub, err := s.Store.Subscribe(t.Context(), []byte("k"), wire.Peer{Endpoint: netip.MustParseAddrPort("192.0.2.1:4000")}, func() {}, nil)
					if err != nil {
						t.Fatal(err)
					}
					return sub
				}
				time.Sleep(time.Hour) // in which the store is empty, and its clock stands still
				changed := s.watch()
				first := join()
				changed(1, 0)
				s.stop(c.gap)
				time.Sleep(c.after)
				first.Close()
				if c.stays > 0 {
					changed(0, 0)
					time.Sleep(c.stays - 2*time.Second)
					s.expect("the peer can subscribe again", 1)
					second := join()
					changed(0, 0)
					time.Sleep(time.Minute)
					s.expect("the peer has subscribed again", 1)
					second.Close()
				}
				changed(0, 1)
				s.expect("the last subscription has ended", 0)

				// The peer does not subscribe again.
				time.Sleep(10 * time.Second)
				other := join()
				changed(1, 0)
				s.stop(c.gap)
				time.Sleep(c.after)
				other.Close()
				time.Sleep(c.stays + 2*time.Second)
				changed(0, 1)

				// An announce keeps the peer for longer.
				time.Sleep(10 * time.Second)
				s.ask(1, "GET", "/announce?info_hash=k&port=4000") // 15 minutes
				both := join()
				changed(1, 0)
				s.stop(c.gap)
				time.Sleep(c.after)
				both.Close()
				time.Sleep(14 * time.Minute)
				s.expect("the announce has not lapsed", 1)
				s.ask(1, "DELETE", "/ntrk/k?port=4000")
				changed(0, 1)

				// A leave counts even after a gap.
				time.Sleep(10 * time.Second)
				third := join()
				changed(1, 0)
				s.stop(c.gap)
				s.ask(1, "DELETE", "/ntrk/k?port=4000")
				third.Close()
				changed(0, 1)
			})
		})
	}
}

// Look returns no lapsed peer, even before a sweep has removed it. It returns the others evenly.
func TestLapsedIsNotGiven(t *testing.T) {
	const n, remaining, want, rounds = 20_000, 500, 20, 2000
	wide := func(i int) wire.Peer {
		return wire.Peer{Endpoint: netip.AddrPortFrom(netip.AddrFrom16([16]byte{0x20, 1, 14: byte(i >> 8), 15: byte(i)}), 1)}
	}
	synctest.Test(t, func(t *testing.T) {
		m, stop := memory.NewStoppable()
		join := func(key string, p wire.Peer, ttl time.Duration) store.Result {
			t.Helper()
			_, r, err := m.Announce(t.Context(), []byte(key), p, func(store.Size) time.Duration { return ttl }, store.Want{}, nil)
			if err != nil {
				t.Fatal(err)
			}
			return r
		}
		look := func(key string, want int) ([]wire.Peer, store.Result) {
			t.Helper()
			peers, r, err := m.Look(t.Context(), []byte(key), netip.MustParseAddr("192.0.2.9"), store.Want{Peers: want}, nil)
			if err != nil {
				t.Fatal(err)
			}
			return peers, r
		}
		for i := range n {
			ttl := time.Second
			if i%(n/remaining) == 0 {
				ttl = time.Hour
			}
			join("k", wire.Peer{Endpoint: numbered(i)}, ttl)
		}
		for i := range 2000 { // in each track one family lapses
			join("4", wire.Peer{Endpoint: numbered(i)}, time.Hour)
			join("4", wide(i), time.Second)
			join("6", wire.Peer{Endpoint: numbered(i)}, time.Second)
			join("6", wide(i), time.Hour)
		}
		stop(1200 * time.Millisecond)
		if _, err := m.Scrape(t.Context(), nil, numbered(0).Addr(), nil); err != nil { // it does not sweep a large track
			t.Fatal(err)
		}
		if _, r := look("k", 0); r.Count != n {
			t.Fatalf("a sweep has removed the lapsed peers, so this tests nothing: %+v", r)
		}
		given := map[netip.AddrPort]int{}
		for range rounds {
			peers, _ := look("k", want)
			if len(peers) != want {
				t.Fatalf("%d peers given", len(peers))
			}
			for _, p := range peers {
				given[p.Endpoint]++
			}
		}
		expected, chi := float64(rounds*want)/remaining, 0.0
		for i := 0; i < n; i += n / remaining {
			d := float64(given[numbered(i)]) - expected
			chi += d * d / expected
			delete(given, numbered(i))
		}
		if len(given) > 0 {
			t.Errorf("%d lapsed peers were given", len(given))
		}
		if chi > 700 { // with 499 degrees of freedom, less than once in a hundred million runs
			t.Errorf("chi-square %.0f: some peers are given more often than others", chi)
		}
		for _, key := range []string{"4", "6"} {
			for range 20 {
				if peers, _ := look(key, 50); len(peers) != 50 {
					t.Errorf("a sample of 50 has %d peers of IPv%s", len(peers), key)
				}
			}
		}
		join("k", wire.Peer{Endpoint: numbered(1)}, time.Second) // has lapsed and joins again
		join("k", wire.Peer{Endpoint: numbered(0)}, time.Second) // is listed for longer
		time.Sleep(time.Second)                                  // until a sweep
		synctest.Wait()
		if _, r := look("k", 0); r.Count != remaining+1 || r.Size.Total != remaining+1+2*2000 {
			t.Errorf("after a sweep: %+v", r)
		}
	})
}

func numbered(i int) netip.AddrPort {
	return netip.AddrPortFrom(netip.AddrFrom4([4]byte{203, byte(i >> 16), byte(i >> 8), byte(i)}), 6881)
}

// Calls for a small track are right at every moment: the first call after a lapse removes the peer.
func TestSmallTracksAreExact(t *testing.T) {
	for _, first := range []string{"announce", "look", "scrape", "scrape of all tracks", "subscribe"} {
		t.Run(first, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m, stop := memory.NewStoppable()
				join := func(key string, i int, ttl time.Duration) store.Result {
					_, r, err := m.Announce(t.Context(), []byte(key), wire.Peer{Endpoint: numbered(i)}, func(store.Size) time.Duration { return ttl }, store.Want{}, nil)
					if err != nil {
						t.Fatal(err)
					}
					return r
				}
				for i := range 1000 {
					join("k", i, time.Second+time.Duration(i%2)*time.Hour)
				}
				join("gone", 1, time.Second)
				stop(time.Second) // exactly until half of the peers lapse
				switch first {
				case "announce":
					if r := join("k", 1, time.Hour); r.Count != 500 || r.Size.Peers != 500 {
						t.Errorf("%+v", r)
					}
					if r := join("gone", 1, time.Hour); r.Count != 1 || r.Size.Age != 0 {
						t.Errorf("%+v", r)
					}
				case "look":
					if _, r, err := m.Look(t.Context(), []byte("k"), numbered(0).Addr(), store.Want{}, nil); err != nil || r.Count != 500 || r.Size.Peers != 500 {
						t.Errorf("%+v, %v", r, err)
					}
				case "scrape", "scrape of all tracks":
					var keys []wire.Key
					if first == "scrape" {
						keys = []wire.Key{wire.KeyOf([]byte("k"))}
					}
					if all, err := m.Scrape(t.Context(), keys, numbered(0).Addr(), nil); err != nil || len(all) != 1 || all[0].Count != 500 {
						t.Errorf("%v, %v", all, err)
					}
				case "subscribe":
					all, _, sub, err := m.Subscribe(t.Context(), []byte("k"), wire.Peer{Endpoint: netip.AddrPortFrom(numbered(0).Addr(), 0)}, func() {}, nil)
					if err != nil || len(all) != 500 {
						t.Errorf("%d, %v", len(all), err)
					}
					sub.Close()
				}
			})
		})
	}
}

// The store gives the memory of lapsed peers back. An empty store does so immediately, because it
// has no timer to do it later. Any other store does so within 5 seconds: until then, new peers may
// use the memory.
func TestMemoryIsGivenBackInTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := memory.New()
		join := func(key string, n int, ttl time.Duration) {
			for i := range n {
				if _, _, err := m.Announce(t.Context(), []byte(key), wire.Peer{Endpoint: numbered(i)}, func(store.Size) time.Duration { return ttl }, store.Want{}, nil); err != nil {
					t.Fatal(err)
				}
			}
		}
		for range 5 { // each time at another second of trimEvery
			join("k", 3000, 3*time.Second)
			time.Sleep(3*time.Second + 200*time.Millisecond)
			if n := m.Pages(); n != 0 {
				t.Errorf("an empty store has %d pages", n)
			}
			time.Sleep(800 * time.Millisecond)
		}
		time.Sleep(5*time.Second - time.Since(time.Now().Truncate(5*time.Second)))
		join("another", 1, time.Hour)
		join("k", 3000, 2*time.Second)
		most := 3 * m.Pages() / 4
		time.Sleep(2*time.Second + 200*time.Millisecond)
		kept := m.Pages()
		time.Sleep(5 * time.Second)
		if now := m.Pages(); kept <= now || now > most {
			t.Errorf("%d pages after a sweep, and %d after 5 more seconds, want fewer and at most %d", kept, now, most)
		}
	})
}
