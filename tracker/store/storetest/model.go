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

// A model is a store that is too simple to be wrong. It draws no samples, but it knows the right
// replies and what a subscriber must see.
type model struct {
	tracks map[string]*track
	now    time.Time // when current last removed the lapsed peers
}

type track struct {
	peers map[netip.AddrPort]*listing
	began time.Time
}

type listing struct {
	id     wire.ID
	expiry time.Time
	holds  int // the subscriptions that hold the peer
}

// current removes the lapsed peers of all tracks. Then it returns the track of a key, or nil if
// there is none.
func (m *model) current(key string) *track {
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

// list lists a peer, if it is not listed yet, and sets its ID. The caller sets an expiry or a hold.
func (m *model) list(key string, p wire.Peer) *listing {
	t := m.current(key)
	if t == nil {
		t = &track{map[netip.AddrPort]*listing{}, m.now}
		m.tracks[key] = t
	}
	l := t.peers[p.Endpoint]
	if l == nil {
		l = &listing{}
		t.peers[p.Endpoint] = l
	}
	l.id = p.ID
	return l
}

func (m *model) announce(key string, p wire.Peer, ttl time.Duration) {
	l := m.list(key, p)
	if expiry := m.now.Add(ttl); expiry.After(l.expiry) {
		l.expiry = expiry
	}
}

// unhold ends one hold on a peer. The peer must not have left since the hold began.
func (m *model) unhold(key string, e netip.AddrPort) {
	l := m.current(key).peers[e]
	if l.holds--; l.holds == 0 && !m.now.Before(l.expiry) {
		m.remove(key, e)
	}
}

func (m *model) size(key string) (s store.Size) {
	if t := m.current(key); t != nil {
		s.Peers, s.Age = len(t.peers), m.now.Sub(t.began)
	}
	for _, t := range m.tracks {
		s.Total += len(t.peers)
	}
	return s
}

// visible calls f for each peer that an asker at this address sees.
func (m *model) visible(key string, asker netip.Addr, f func(netip.AddrPort)) {
	if t := m.current(key); t != nil {
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

// check checks a reply to an announce of asker, or to a look if the port of asker is 0.
func (m *model) check(s *tester, key string, asker netip.AddrPort, want int, peers []wire.Peer, res store.Result) {
	s.t.Helper()
	if n := m.count(key, asker.Addr()); res.Count != n {
		s.t.Fatalf("count %d, want %d", res.Count, n)
	}
	if s.exact {
		s.expectSize(key, res.Size, m.size(key))
	}
	var others, given [2]int // by family
	m.visible(key, asker.Addr(), func(e netip.AddrPort) {
		if e != asker {
			others[family(e)]++
		}
	})
	if n := others[0] + others[1]; len(peers) != min(want, n) {
		s.t.Fatalf("%d peers of %d given, wanted %d", len(peers), n, want)
	}
	seen := map[netip.AddrPort]bool{asker: true}
	for _, p := range peers {
		l, listed := m.current(key).peers[p.Endpoint]
		if !listed || seen[p.Endpoint] || !wire.ScopeOf(asker.Addr()).Sees(wire.ScopeOf(p.Endpoint.Addr())) {
			s.t.Fatalf("%v is the asker, is given twice, or is not visible", p.Endpoint)
		}
		s.expectID(p.Endpoint.String(), p.ID, l.id)
		seen[p.Endpoint] = true
		given[family(p.Endpoint)]++
	}
	for f := range given {
		if given[f] < min(others[f], want/4) {
			s.t.Fatalf("by family, %v of %v given, wanted %d", given, others, want)
		}
	}
}

// checkIndex checks the index, which is a scrape without keys.
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

// checkSubscriber compares what a subscriber sees with the track, or expects that its subscription
// has ended because its peer has left.
func (m *model) checkSubscriber(s *tester, sub *subscriber, departed bool) {
	sub.next()
	if sub.live == departed {
		s.t.Errorf("%v of %q has left: %v; live: %v", sub.self, sub.key, departed, sub.live)
	}
	if departed {
		return
	}
	n := 0
	m.visible(sub.key, sub.self.Addr(), func(e netip.AddrPort) {
		if e == sub.self {
			return
		}
		if n++; !sub.sees[e] {
			s.t.Errorf("%v of %q does not see %v", sub.self, sub.key, e)
		}
	})
	if len(sub.sees) != n {
		s.t.Errorf("%v of %q sees %d peers, want %d", sub.self, sub.key, len(sub.sees), n)
	}
}

func family(e netip.AddrPort) int {
	if e.Addr().Is4() {
		return 0
	}
	return 1
}

// someEndpoints returns n endpoints of both families and every scope, most of them public.
func someEndpoints(n int) []netip.AddrPort {
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

// randomCalls makes random calls for weeks of virtual time, and checks each with the model. Every
// pause is an even number of seconds and every ttl an odd one, so no peer lapses at the moment of a
// call, and it does not matter how a store rounds.
func randomCalls(t *testing.T, s *tester) {
	for _, size := range []int{20, 150, 900} {
		seed := rand.Uint64()
		r := rand.New(rand.NewPCG(seed, 0))
		m := &model{tracks: map[string]*track{}}
		keys := []string{"a", "b\x00", "c", "another key, which is longer than the others"}
		endpoints := someEndpoints(size)
		var subscribers []*subscriber
		departed := map[*subscriber]bool{} // the subscribers that Leave has ended
		end := func(i int) {
			sub := subscribers[i]
			subscribers = slices.Delete(subscribers, i, i+1)
			if sub.self.Port() != 0 && !departed[sub] {
				m.unhold(sub.key, sub.self)
			}
			sub.Close()
			synctest.Wait() // the hold may end a moment later
		}
		decline := 0 // the higher it is, the fewer announces there are, so that tracks shrink
		for step := range s.few(8000) {
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
			withoutPort := netip.AddrPortFrom(e.Addr(), 0)
			switch action := r.IntN(100); {
			case action < 55-4*decline: // announce
				p := wire.Peer{Endpoint: e}
				if r.IntN(3) == 0 {
					p.ID = wire.ID{byte(step), byte(step >> 8), 1}
				}
				ttl := time.Duration(1+2*r.IntN(150)) * time.Second
				if r.IntN(4) == 0 {
					ttl = time.Duration(1+2*r.IntN(2250)) * time.Second // up to 75 minutes
				}
				m.announce(key, p, ttl)
				peers, res := s.announceFor(ttl, key, p, want)
				m.check(s, key, e, want, peers, res)
			case action < 65: // look
				peers, res := s.look(key, e.Addr().String(), want)
				m.check(s, key, withoutPort, want, peers, res)
			case action < 82: // leave
				for _, sub := range subscribers {
					if sub.key == key && sub.self == e {
						departed[sub] = true
					}
				}
				m.remove(key, e)
				s.leave(key, e.String())
			case action < 84: // list all tracks
				m.checkIndex(s, e.Addr())
			case action < 89 && len(subscribers) < 20: // subscribe
				if r.IntN(4) == 0 {
					e = withoutPort
				} else {
					m.list(key, wire.Peer{Endpoint: e}).holds++
				}
				sub, _ := s.subscribe(key, e.String())
				subscribers = append(subscribers, sub)
				m.checkSubscriber(s, sub, false)
			case action < 94 && len(subscribers) > 0: // close a subscription
				end(r.IntN(len(subscribers)))
			case action >= 94: // wait
				pause := 2 * (1 + r.IntN(20))
				if r.IntN(100) == 0 {
					for len(subscribers) > 0 {
						end(0)
					}
					pause = 2 * (1 + r.IntN(int(s.long(10*time.Hour)/time.Second))) // up to 20 hours, in which all peers lapse
				}
				time.Sleep(time.Duration(pause) * time.Second)
				synctest.Wait()
				for _, sub := range subscribers {
					m.checkSubscriber(s, sub, departed[sub])
				}
			}
			if t.Failed() {
				t.Fatalf("at step %d of seed %d", step, seed)
			}
		}
		for len(subscribers) > 0 {
			end(0)
		}
		time.Sleep(2 * time.Hour)
		s.expect("in the end", s.index("127.0.0.1"), "")
	}
}
