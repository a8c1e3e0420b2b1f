package storetest

import (
	"context"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"
	"time"

	"ntrack/announce/wire"
	"ntrack/tracker/store"
)

// model is a store so plain that it is right: it looks at everything, each time. It is asked what
// a store may answer; it does not draw samples.
type model map[string]*modelTrack

type modelTrack struct {
	peers map[netip.AddrPort]listed
	began time.Time
}

type listed struct {
	id     wire.ID
	expiry time.Time
}

// track is nil where there is none.
func (m model) track(key string) *modelTrack {
	t := m[key]
	if t == nil {
		return nil
	}
	for e, l := range t.peers {
		if !time.Now().Before(l.expiry) {
			delete(t.peers, e)
		}
	}
	if len(t.peers) == 0 {
		delete(m, key)
		return nil
	}
	return t
}

func (m model) announce(key string, p wire.Peer, ttl time.Duration) store.Result {
	track := m.track(key)
	if track == nil {
		track = &modelTrack{map[netip.AddrPort]listed{}, time.Now()}
		m[key] = track
	}
	old := track.peers[p.Endpoint]
	expiry := time.Now().Add(ttl)
	if old.expiry.After(expiry) {
		expiry = old.expiry
	}
	track.peers[p.Endpoint] = listed{p.ID, expiry}
	return store.Result{Count: len(m.visible(key, p.Endpoint.Addr())), Size: m.size(key)}
}

func (m model) size(key string) (s store.Size) {
	for k := range m {
		t := m.track(k)
		if t == nil {
			continue
		}
		s.Total += len(t.peers)
		if k == key {
			s.Peers, s.Age = len(t.peers), time.Since(t.began)
		}
	}
	return s
}

func (m model) visible(key string, asker netip.Addr) map[netip.AddrPort]wire.ID {
	seen := map[netip.AddrPort]wire.ID{}
	t := m.track(key)
	if t == nil {
		return seen
	}
	for e, l := range t.peers {
		if wire.ScopeOf(asker).Sees(wire.ScopeOf(e.Addr())) {
			seen[e] = l.id
		}
	}
	return seen
}

// check holds a sample against what could be given.
func (m model) check(t *testing.T, key string, asker netip.Addr, self netip.AddrPort, want int, peers []wire.Peer) {
	t.Helper()
	could := m.visible(key, asker)
	delete(could, self)
	var have, got [2]int
	for e := range could {
		have[family(e)]++
	}
	if len(peers) != min(want, len(could)) {
		t.Fatalf("%d peers of %d given, wanted %d", len(peers), len(could), want)
	}
	for _, p := range peers {
		id, ok := could[p.Endpoint]
		if !ok {
			t.Fatalf("%v must not be given, or not twice", p.Endpoint)
		}
		if id != p.ID {
			t.Fatalf("%v has id %q, want %q", p.Endpoint, p.ID, id)
		}
		delete(could, p.Endpoint)
		got[family(p.Endpoint)]++
	}
	for f := range got {
		if got[f] < min(have[f], want/4) {
			t.Fatalf("families: %v of %v given, wanted %d", got, have, want)
		}
	}
}

func family(e netip.AddrPort) int {
	if e.Addr().Is4() {
		return 0
	}
	return 1
}

// somePeers are n endpoints of both families and every scope, most of them public.
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

// churn does what comes to mind, for weeks, and compares with the model at every step. Time passes
// in even seconds and a ttl is odd, so that nothing depends on how a store rounds.
func churn(t *testing.T, s *tester) {
	for _, size := range []int{20, 150, 900} {
		seed := rand.Uint64()
		r := rand.New(rand.NewPCG(seed, 0))
		m := model{}
		keys := []string{"a", "b\x00", "c", "another key, which is longer than the others"}
		endpoints := somePeers(size)
		// Weather makes tracks grow for a while and then shrink.
		weather := 0
		for step := range 8000 {
			if step%500 == 0 {
				weather = r.IntN(8)
			}
			key, e := keys[r.IntN(len(keys))], endpoints[r.IntN(size)]
			if r.IntN(4) > 0 {
				key = keys[0]
			}
			want := r.IntN(60)
			if r.IntN(10) == 0 {
				want = 1000
			}
			switch what := r.IntN(100); {
			case what < 60-4*weather:
				p := wire.Peer{Endpoint: e}
				if r.IntN(3) == 0 {
					p.ID = wire.ID{byte(step), byte(step >> 8), 1}
				}
				ttl := time.Duration(1+2*r.IntN(150)) * time.Second
				if r.IntN(4) == 0 {
					ttl = time.Duration(1+2*r.IntN(2250)) * time.Second // up to 75 minutes
				}
				expected := m.announce(key, p, ttl)
				peers, res := s.announceFor(ttl, key, p, want)
				if res != expected {
					t.Fatalf("step %d of seed %d: %+v, want %+v", step, seed, res, expected)
				}
				m.check(t, key, e.Addr(), e, want, peers)
			case what < 70:
				peers, n := s.look(key, e.Addr().String(), want)
				if expected := len(m.visible(key, e.Addr())); n != expected {
					t.Fatalf("step %d of seed %d: count %d, want %d", step, seed, n, expected)
				}
				m.check(t, key, e.Addr(), netip.AddrPort{}, want, peers)
			case what < 92:
				s.leave(key, e.String())
				if track := m[key]; track != nil {
					delete(track.peers, e)
					m.track(key)
				}
			case what < 94:
				m.compareIndex(t, s, e.Addr())
			default:
				pause := 2 * r.IntN(20)
				if r.IntN(100) == 0 {
					pause = 2 * r.IntN(3600*10) // a lull: everybody lapses
				}
				time.Sleep(time.Duration(pause) * time.Second)
			}
			if t.Failed() {
				t.Fatalf("at step %d of seed %d", step, seed)
			}
		}
		time.Sleep(2 * time.Hour)
		s.expect("in the end", s.index("127.0.0.1"), "")
	}
}

func (m model) compareIndex(t *testing.T, s *tester, asker netip.Addr) {
	tracks, err := s.Scrape(context.Background(), nil, asker, nil)
	if err != nil {
		t.Fatal(err)
	}
	slices.SortFunc(tracks, func(a, b wire.Track) int { return slices.Compare(a.Key.Bytes(), b.Key.Bytes()) })
	for key := range m {
		n := len(m.visible(key, asker))
		i, found := slices.BinarySearchFunc(tracks, key, func(a wire.Track, key string) int {
			return slices.Compare(a.Key.Bytes(), []byte(key))
		})
		if found != (n > 0) || found && tracks[i].Count != n {
			t.Fatalf("index, key %q: want %d, have %v", key, n, tracks)
		}
		if found {
			tracks = slices.Delete(tracks, i, i+1)
		}
	}
	if len(tracks) > 0 {
		t.Fatalf("index: %v are not there", tracks)
	}
}
