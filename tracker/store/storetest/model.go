package storetest

import (
	"context"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"ntrack/announce/wire"
	"ntrack/tracker/store"
)

// A model is a store that is too simple to be wrong. It draws no samples, but it knows what a store
// may answer and what a follower must see.
type model struct {
	tracks map[string]*track
	now    time.Time // no peer has lapsed before this
}

type track struct {
	peers map[netip.AddrPort]listing
	began time.Time
}

type listing struct {
	id     wire.ID
	expiry time.Time
	holds  int // of subscriptions
}

// track returns the track of a key, or nil, after all lapsed peers are gone.
func (m *model) track(key string) *track {
	if now := time.Now(); now != m.now {
		m.now = now
		for key, t := range m.tracks {
			for e, l := range t.peers {
				if l.holds == 0 && !now.Before(l.expiry) {
					m.remove(key, e)
				}
			}
		}
	}
	return m.tracks[key]
}

func (m *model) remove(key string, e netip.AddrPort) {
	if t := m.tracks[key]; t != nil {
		if delete(t.peers, e); len(t.peers) == 0 {
			delete(m.tracks, key)
		}
	}
}

// list lists a peer for a ttl. If that is 0, it adds a hold instead.
func (m *model) list(key string, p wire.Peer, ttl time.Duration) {
	t := m.track(key)
	if t == nil {
		t = &track{map[netip.AddrPort]listing{}, m.now}
		m.tracks[key] = t
	}
	l := t.peers[p.Endpoint]
	l.id = p.ID
	if expiry := m.now.Add(ttl); ttl > 0 && expiry.After(l.expiry) {
		l.expiry = expiry
	}
	if ttl == 0 {
		l.holds++
	}
	t.peers[p.Endpoint] = l
}

// unhold ends a hold on a peer that has not left.
func (m *model) unhold(key string, e netip.AddrPort) {
	t := m.track(key)
	l := t.peers[e]
	l.holds--
	t.peers[e] = l
	if l.holds == 0 && !m.now.Before(l.expiry) {
		m.remove(key, e)
	}
}

func (m *model) size(key string) (s store.Size) {
	if t := m.track(key); t != nil {
		s.Peers, s.Age = len(t.peers), m.now.Sub(t.began)
	}
	for _, t := range m.tracks {
		s.Total += len(t.peers)
	}
	return s
}

// visible calls f for each peer that asker sees.
func (m *model) visible(key string, asker netip.Addr, f func(netip.AddrPort)) {
	if t := m.track(key); t != nil {
		for e := range t.peers {
			if wire.ScopeOf(asker).Sees(wire.ScopeOf(e.Addr())) {
				f(e)
			}
		}
	}
}

func (m *model) count(key string, asker netip.Addr) (n int) {
	m.visible(key, asker, func(netip.AddrPort) { n++ })
	return n
}

// check compares a reply with what the store may answer to self, whose port is 0 if it only looks.
func (m *model) check(s *tester, key string, self netip.AddrPort, want int, peers []wire.Peer, res store.Result) {
	s.t.Helper()
	if n := m.count(key, self.Addr()); res.Count != n {
		s.t.Fatalf("count %d, want %d", res.Count, n)
	}
	if s.exact {
		s.expectSize(key, res.Size, m.size(key))
	}
	var have, given [2]int // by family
	m.visible(key, self.Addr(), func(e netip.AddrPort) {
		if e != self {
			have[family(e)]++
		}
	})
	if n := have[0] + have[1]; len(peers) != min(want, n) {
		s.t.Fatalf("%d peers of %d given, wanted %d", len(peers), n, want)
	}
	seen := map[netip.AddrPort]bool{self: true}
	for _, p := range peers {
		l, listed := m.track(key).peers[p.Endpoint]
		if !listed || seen[p.Endpoint] || !wire.ScopeOf(self.Addr()).Sees(wire.ScopeOf(p.Endpoint.Addr())) {
			s.t.Fatalf("%v must not be given, or not twice", p.Endpoint)
		}
		s.expectID(p.Endpoint.String(), p.ID, l.id)
		seen[p.Endpoint] = true
		given[family(p.Endpoint)]++
	}
	for f := range given {
		if given[f] < min(have[f], want/4) {
			s.t.Fatalf("families: %v of %v given, wanted %d", given, have, want)
		}
	}
}

// checkIndex compares an index with what the store must answer.
func (m *model) checkIndex(s *tester, asker netip.Addr) {
	tracks, err := s.Scrape(context.Background(), nil, asker, nil)
	if err != nil {
		s.t.Fatal(err)
	}
	counts := map[string]int{}
	for _, t := range tracks {
		counts[string(t.Key.Bytes())] += t.Count
	}
	for key := range m.tracks {
		if n := m.count(key, asker); counts[key] != n {
			s.t.Fatalf("index: %q has %d peers, want %d", key, counts[key], n)
		} else if n > 0 {
			delete(counts, key)
		}
	}
	if len(counts) > 0 {
		s.t.Fatalf("index: %v does not exist", counts)
	}
}

// checkFollower compares what a follower sees with the track.
func (m *model) checkFollower(s *tester, f *follower, left bool) {
	f.next()
	if f.live == left {
		s.t.Errorf("%v of %q has left: %v; live: %v", f.self, f.key, left, f.live)
	}
	if left {
		return
	}
	n := 0
	m.visible(f.key, f.self.Addr(), func(e netip.AddrPort) {
		if e == f.self {
			return
		}
		if n++; !f.sees[e] {
			s.t.Errorf("%v of %q does not see %v", f.self, f.key, e)
		}
	})
	if len(f.sees) != n {
		s.t.Errorf("%v of %q sees %d peers, want %d", f.self, f.key, len(f.sees), n)
	}
}

func family(e netip.AddrPort) int {
	if e.Addr().Is4() {
		return 0
	}
	return 1
}

// somePeers returns n endpoints of both families and every scope, most of them public.
func somePeers(n int) []netip.AddrPort {
	addrs := []string{"192.0.2.1", "203.0.113.7", "2001:db8::1", "2001:db8::2", "192.0.2.2", "198.51.100.1", "10.0.0.1", "127.0.0.1", "fd00::1", "169.254.1.1", "::1", "fe80::1"}
	var all []netip.AddrPort
	for i := range n {
		j := i % len(addrs)
		if i%3 > 0 {
			j = i % 6
		}
		all = append(all, netip.AddrPortFrom(netip.MustParseAddr(addrs[j]), uint16(1+i)))
	}
	return all
}

// anything makes random calls for weeks, and compares each with the model. Time passes in even
// seconds and a ttl is odd, so that nothing depends on how a store rounds.
func anything(t *testing.T, s *tester) {
	for _, size := range []int{20, 150, 900} {
		seed := rand.Uint64()
		r := rand.New(rand.NewPCG(seed, 0))
		m := &model{tracks: map[string]*track{}}
		keys := []string{"a", "b\x00", "c", "another key, which is longer than the others"}
		endpoints := somePeers(size)
		var followers []*follower
		left := map[*follower]bool{} // those that Leave has ended
		end := func(i int) {
			f := followers[i]
			followers = slices.Delete(followers, i, i+1)
			if f.self.Port() != 0 && !left[f] {
				m.unhold(f.key, f.self)
			}
			f.sub.Close()
		}
		decline := 0 // makes tracks shrink for a while
		for step := range 8000 {
			if step%500 == 0 {
				decline = r.IntN(8)
			}
			key, e := keys[r.IntN(len(keys))], endpoints[r.IntN(size)]
			if r.IntN(4) > 0 {
				key = keys[0]
			}
			want := r.IntN(60)
			if r.IntN(10) == 0 {
				want = 1000
			}
			looker := netip.AddrPortFrom(e.Addr(), 0)
			switch what := r.IntN(100); {
			case what < 55-4*decline:
				p := wire.Peer{Endpoint: e}
				if r.IntN(3) == 0 {
					p.ID = wire.ID{byte(step), byte(step >> 8), 1}
				}
				ttl := time.Duration(1+2*r.IntN(150)) * time.Second
				if r.IntN(4) == 0 {
					ttl = time.Duration(1+2*r.IntN(2250)) * time.Second // up to 75 minutes
				}
				m.list(key, p, ttl)
				peers, res := s.announceFor(ttl, key, p, want)
				m.check(s, key, e, want, peers, res)
			case what < 65:
				peers, res := s.look(key, e.Addr().String(), want)
				m.check(s, key, looker, want, peers, res)
			case what < 82:
				for _, f := range followers {
					if f.key == key && f.self == e {
						left[f] = true
					}
				}
				m.remove(key, e)
				s.leave(key, e.String())
			case what < 84:
				m.checkIndex(s, e.Addr())
			case what < 89 && len(followers) < 20:
				if r.IntN(4) == 0 {
					e = looker
				} else {
					m.list(key, wire.Peer{Endpoint: e}, 0)
				}
				f, _ := s.subscribe(key, e.String())
				followers = append(followers, f)
				m.checkFollower(s, f, false)
			case what < 94 && len(followers) > 0:
				end(r.IntN(len(followers)))
			case what >= 94:
				pause := 2 * (1 + r.IntN(20))
				if r.IntN(100) == 0 {
					for len(followers) > 0 {
						end(0)
					}
					pause = 2 * (1 + r.IntN(3600*10)) // everything lapses
				}
				time.Sleep(time.Duration(pause) * time.Second)
				synctest.Wait()
				for _, f := range followers {
					m.checkFollower(s, f, left[f])
				}
			}
			if t.Failed() {
				t.Fatalf("at step %d of seed %d", step, seed)
			}
		}
		for len(followers) > 0 {
			end(0)
		}
		time.Sleep(2 * time.Hour)
		s.expect("in the end", s.index("127.0.0.1"), "")
	}
}
