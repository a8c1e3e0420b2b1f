package tracker

import (
	"context"
	"math"
	"math/rand/v2"
	"net/netip"
	"sync"
	"time"

	"ntrack/announce"
)

// Memory is a Store in this process's memory, and nowhere else. Make one with [NewMemory]. It
// forgets what has lapsed by itself; there is nothing to close.
type Memory struct {
	base time.Time // times are monotonic durations since

	mu     sync.Mutex
	tracks map[string]*track
	// sweeping says that a timer will call sweep: it does as long as there is a track, so that
	// an empty store costs nothing and an abandoned one is garbage after its last peer lapsed.
	sweeping bool
}

// track has the peers of a key, by family: 0 is IPv4, 1 is IPv6.
type track struct {
	at       map[netip.AddrPort]int // where in its family's list a peer is
	families [2]family
	// next is when the first peer may lapse: nothing has to be looked at before. Expiries are
	// whole seconds, so a track is walked at most once a second, however many lapse in it.
	next time.Duration
}

type family struct {
	list []entry
	// scopes counts list by scope, lapsed entries included.
	scopes [announce.NumScopes]int
}

type entry struct {
	peer   announce.Peer
	expiry time.Duration
}

// sweepEvery is how long a lapsed peer, which nobody is shown any more, may still take memory.
const sweepEvery = 10 * time.Second

// NewMemory returns an empty store.
func NewMemory() *Memory {
	return &Memory{base: time.Now(), tracks: make(map[string]*track)}
}

func (m *Memory) now() time.Duration { return time.Since(m.base) }

// Announce implements [Store].
func (m *Memory) Announce(_ context.Context, key []byte, peer announce.Peer, ttl time.Duration, want int, dst []announce.Peer) ([]announce.Peer, Result, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	now := m.now()
	t := m.tracks[string(key)]
	if t == nil {
		t = &track{at: make(map[netip.AddrPort]int)}
		m.tracks[string(key)] = t
	}
	t.expire(now)
	joined := t.put(peer, (now + ttl + time.Second - 1).Truncate(time.Second))
	if !m.sweeping {
		m.sweeping = true
		time.AfterFunc(sweepEvery, m.sweep)
	}
	scope := announce.ScopeOf(peer.Endpoint.Addr())
	return t.sample(dst, want, scope, peer.Endpoint), Result{Joined: joined, Count: t.count(scope)}, nil
}

// Look implements [Store].
func (m *Memory) Look(_ context.Context, key []byte, asker netip.Addr, want int, dst []announce.Peer) ([]announce.Peer, int, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	t := m.tracks[string(key)]
	if t == nil {
		return dst, 0, nil
	}
	t.expire(m.now())
	scope := announce.ScopeOf(asker)
	return t.sample(dst, want, scope, netip.AddrPort{}), t.count(scope), nil
}

// Leave implements [Store].
func (m *Memory) Leave(_ context.Context, key []byte, endpoint netip.AddrPort) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if t := m.tracks[string(key)]; t != nil {
		t.drop(endpoint)
		if len(t.at) == 0 {
			delete(m.tracks, string(key))
		}
	}
	return nil
}

// Scrape implements [Store].
func (m *Memory) Scrape(_ context.Context, keys []announce.Key, asker netip.Addr, dst []announce.Track) ([]announce.Track, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	now, scope := m.now(), announce.ScopeOf(asker)
	for _, k := range keys {
		n := 0
		if t := m.tracks[string(k.Bytes())]; t != nil {
			t.expire(now)
			n = t.count(scope)
		}
		dst = append(dst, announce.Track{Key: k, Count: n})
	}
	if len(keys) > 0 {
		return dst, nil
	}
	for k, t := range m.tracks {
		t.expire(now)
		if n := t.count(scope); n > 0 {
			dst = append(dst, announce.Track{Key: announce.KeyOf([]byte(k)), Count: n})
		}
	}
	return dst, nil
}

// sweep forgets what nobody has asked for since it lapsed.
func (m *Memory) sweep() {
	m.mu.Lock()
	defer m.mu.Unlock()
	now := m.now()
	for k, t := range m.tracks {
		t.expire(now)
		if len(t.at) == 0 {
			delete(m.tracks, k)
		}
	}
	if m.sweeping = len(m.tracks) > 0; m.sweeping {
		time.AfterFunc(sweepEvery, m.sweep)
	}
}

func familyOf(e netip.AddrPort) int {
	if e.Addr().Is4() {
		return 0
	}
	return 1
}

func (t *track) put(p announce.Peer, expiry time.Duration) (joined bool) {
	f := &t.families[familyOf(p.Endpoint)]
	if i, ok := t.at[p.Endpoint]; ok {
		f.list[i] = entry{p, max(expiry, f.list[i].expiry)}
		return false
	}
	if len(t.at) == 0 || expiry < t.next {
		t.next = expiry
	}
	t.at[p.Endpoint] = len(f.list)
	f.list = append(f.list, entry{p, expiry})
	f.scopes[announce.ScopeOf(p.Endpoint.Addr())]++
	return true
}

// drop moves the last entry into the gap.
func (t *track) drop(e netip.AddrPort) {
	i, ok := t.at[e]
	if !ok {
		return
	}
	f := &t.families[familyOf(e)]
	last := len(f.list) - 1
	f.list[i] = f.list[last]
	t.at[f.list[i].peer.Endpoint] = i
	f.list[last] = entry{}
	f.list = f.list[:last]
	f.scopes[announce.ScopeOf(e.Addr())]--
	delete(t.at, e)
}

// expire drops what has lapsed.
func (t *track) expire(now time.Duration) {
	if now < t.next {
		return
	}
	t.next = math.MaxInt64
	for f := range t.families {
		list := t.families[f].list
		for i := len(list) - 1; i >= 0; i-- {
			if list[i].expiry <= now {
				t.drop(list[i].peer.Endpoint)
			} else {
				t.next = min(t.next, list[i].expiry)
			}
		}
	}
}

// visible is how many peers of the family an asker sees.
func (f *family) visible(asker announce.Scope) int {
	n := 0
	for s, k := range f.scopes {
		if asker.Sees(announce.Scope(s)) {
			n += k
		}
	}
	return n
}

func (t *track) count(asker announce.Scope) int {
	return t.families[0].visible(asker) + t.families[1].visible(asker)
}

// sample appends at most want peers that asker sees, self excepted.
func (t *track) sample(dst []announce.Peer, want int, asker announce.Scope, self netip.AddrPort) []announce.Peer {
	if want <= 0 {
		return dst
	}
	n := [2]int{t.families[0].visible(asker), t.families[1].visible(asker)}
	if self.IsValid() {
		n[familyOf(self)]-- // it sees itself
	}
	take := shares(want, n[0], n[1])
	for i := range t.families {
		dst = t.families[i].sample(dst, take[i], asker, self)
	}
	return dst
}

// shares divides want between n4 and n6 peers: in proportion, so that every peer is as likely to
// be given, but for the quarter that the smaller family is sure of.
func shares(want, n4, n6 int) [2]int {
	if n4+n6 <= want {
		return [2]int{n4, n6}
	}
	k4 := want * n4 / (n4 + n6)
	if rand.IntN(n4+n6) < want*n4%(n4+n6) {
		k4++ // rounded by chance, so that a want of 1 reaches both
	}
	if quarter := (want + 3) / 4; want > 1 {
		k4 = max(k4, min(quarter, n4))
		k4 = min(k4, want-min(quarter, n6))
	}
	k4 = max(min(k4, n4), want-n6)
	return [2]int{k4, want - k4}
}

// sample appends k entries, k not more than there are to choose from. It walks the list in an
// order drawn anew each time: a permutation of the next power of two, computed, not stored, so
// that it costs about k steps whatever the size of the list.
func (f *family) sample(dst []announce.Peer, k int, asker announce.Scope, self netip.AddrPort) []announce.Peer {
	var order permutation
	order.init(len(f.list))
	for k > 0 {
		p := &f.list[order.next()].peer
		if p.Endpoint != self && asker.Sees(announce.ScopeOf(p.Endpoint.Addr())) {
			dst = append(dst, *p)
			k--
		}
	}
	return dst
}
