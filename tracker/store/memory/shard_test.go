package memory

import (
	"errors"
	"fmt"
	"hash/maphash"
	"net/netip"
	"testing"
	"time"

	"ntrack/announce/wire"
	"ntrack/tracker/store"
)

// Keys with the same hash have different tracks.
func TestKeysOfOneHash(t *testing.T) {
	s := &New().shards[0]
	for range 8 { // so that add adds no bucket, because that moves tracks by their real hashes
		s.addBucket()
	}
	const hash = 0xfedcba9876543210
	keys := []string{"a", "b", "ab", "a\x00"}
	handles := map[handle]bool{}
	for _, k := range keys {
		if h := s.lookup([]byte(k), hash); h != 0 {
			t.Errorf("before it is added, %q has the track of %q", k, s.keyOf(s.tracks.get(h)))
		}
		handles[s.add([]byte(k), hash, 0)] = true
	}
	for _, k := range keys {
		h := s.lookup([]byte(k), hash)
		if h == 0 || string(s.keyOf(s.tracks.get(h))) != k {
			t.Errorf("%q is not found", k)
		}
		delete(handles, h)
	}
	if len(handles) > 0 {
		t.Errorf("%d tracks are not found", len(handles))
	}
}

// A call that makes or removes a track looks at the tracks of a few buckets, and moves no memory of the
// others, however many there are.
func TestBuckets(t *testing.T) {
	m := New()
	s := &m.shards[0]
	key := func(i int) []byte { return fmt.Append(nil, i) }
	check := func(when string, n int) {
		t.Helper()
		if n := s.buckets.n; n < s.count || n > max(1, 2*s.count) {
			t.Fatalf("%s: %d buckets for %d tracks", when, n, s.count)
		}
		for i := range n {
			hash := maphash.Bytes(m.keySeed, key(i))
			if h := s.lookup(key(i), hash); h == 0 || string(s.keyOf(s.tracks.get(h))) != string(key(i)) {
				t.Fatalf("%s: track %d of %d is not found", when, i, n)
			}
		}
		longest := 0
		for i := range s.buckets.n {
			length := 0
			for h := *s.buckets.at(i); h != 0; h = s.tracks.get(h).next {
				length++
			}
			longest = max(longest, length)
		}
		if longest > 25 { // of 10,000 random hashes, about 8
			t.Errorf("%s: a bucket has %d of %d tracks", when, longest, s.count)
		}
	}
	const n = 10 * segmentLen
	first := func() *handle { return s.buckets.at(0) }
	var before *handle
	for i := range n {
		buckets := s.buckets.n
		s.add(key(i), maphash.Bytes(m.keySeed, key(i)), 0)
		if more := s.buckets.n - buckets; more > 1 {
			t.Fatalf("a track adds %d buckets", more)
		}
		if before == nil {
			before = first()
		}
		if i < 20 || i%1000 == 0 {
			check("growing", i+1)
		}
	}
	check("grown", n)
	for i := n - 1; i > 0; i-- {
		buckets := s.buckets.n
		s.drop(s.lookup(key(i), maphash.Bytes(m.keySeed, key(i))))
		if fewer := buckets - s.buckets.n; fewer > 2 {
			t.Fatalf("the end of a track removes %d buckets", fewer)
		}
		if i < 20 || i%1000 == 0 {
			check("shrinking", i)
		}
	}
	if first() != before {
		t.Error("the buckets have moved to other memory")
	}
	if got := len(s.buckets.segments); got != 1 {
		t.Errorf("%d segments of buckets for one track", got)
	}
}

// A track has a most number of peers, because its table moves in one go. It still takes renewals.
func TestLargestTrack(t *testing.T) {
	m := New()
	key := []byte("k")
	join := func(port uint16) error {
		p := wire.Peer{Endpoint: netip.AddrPortFrom(netip.MustParseAddr("192.0.2.1"), port)}
		_, _, err := m.Announce(t.Context(), key, p, func(store.Size) time.Duration { return time.Hour }, store.Want{}, nil)
		return err
	}
	if err := join(1); err != nil {
		t.Fatal(err)
	}
	s, hash := m.shardOf(key)
	tab := s.table(s.tracks.get(s.lookup(key, hash)), 0)
	tab.scopes[wire.ScopeOf(netip.MustParseAddr("192.0.2.1"))] = maxTrackLen - 1 // as if it had so many
	if err := join(2); err != nil {
		t.Errorf("peer %d: %v", maxTrackLen, err)
	}
	var full *store.FullError
	if err := join(3); !errors.As(err, &full) || full.Max != maxTrackLen || full.Stream {
		t.Errorf("peer %d: %v", maxTrackLen+1, err)
	}
	if err := join(1); err != nil {
		t.Errorf("a renewal: %v", err)
	}
}

// A track that loses nearly all peers gets a table of its new size in one step, and not in many.
func TestShrinksInOneStep(t *testing.T) {
	m := New()
	key, ttl := []byte("k"), time.Second
	for i := range 60_000 {
		if i == 59_000 {
			ttl = time.Hour
		}
		p := wire.Peer{Endpoint: netip.AddrPortFrom(netip.MustParseAddr("192.0.2.1"), uint16(1+i))}
		if _, _, err := m.Announce(t.Context(), key, p, func(store.Size) time.Duration { return ttl }, store.Want{}, nil); err != nil {
			t.Fatal(err)
		}
	}
	s, hash := m.shardOf(key)
	var at cursor
	for s.sweepSome(&at, expiryAt(m.clock.now()+time.Minute)) {
	}
	tab := s.table(s.tracks.get(s.lookup(key, hash)), 0)
	if tab.len() != 1000 || tab.cap > 2000 {
		t.Errorf("%d peers in %d slots", tab.len(), tab.cap)
	}
}

// If no peer has an ID, the store allocates no memory for IDs.
func TestNoIDsNoMemory(t *testing.T) {
	m := New()
	for i := range 1000 {
		p := wire.Peer{Endpoint: netip.AddrPortFrom(netip.MustParseAddr("192.0.2.1"), uint16(1+i))}
		if _, _, err := m.Announce(t.Context(), fmt.Append(nil, i%10), p, func(store.Size) time.Duration { return time.Hour }, store.Want{}, nil); err != nil {
			t.Fatal(err)
		}
	}
	for i := range m.shards {
		if n := len(m.shards[i].ids.pages); n > 0 {
			t.Errorf("%d pages for IDs, although no peer has one", n)
		}
	}
}

// The counters of addresses take no memory while no peer is listed. No counter exceeds 65535, even
// if the limit is higher.
func TestCounters(t *testing.T) {
	m := New()
	m.Limits.MaxPerAddr = 1 << 20
	const most = 1<<16 - 1
	join := func(key string, port int) error {
		p := wire.Peer{Endpoint: netip.AddrPortFrom(netip.MustParseAddr("192.0.2.1"), uint16(port))}
		_, _, err := m.Announce(t.Context(), []byte(key), p, func(store.Size) time.Duration { return time.Hour }, store.Want{}, nil)
		return err
	}
	for port := range most {
		if err := join("k", 1+port); err != nil {
			t.Fatal(err)
		}
	}
	if err := join("l", 1); err == nil {
		t.Error("a counter exceeds 65535")
	}
	used := func() (n int) {
		for i := range m.shards {
			if m.shards[i].addrs != nil {
				n++
			}
		}
		return n
	}
	if n := used(); n != 1 {
		t.Errorf("the counters of %d shards take memory, want 1, for one address", n)
	}
	for port := range most {
		if err := m.Leave(t.Context(), []byte("k"), netip.AddrPortFrom(netip.MustParseAddr("192.0.2.1"), uint16(1+port))); err != nil {
			t.Fatal(err)
		}
	}
	if n := used(); n != 0 {
		t.Errorf("the counters of %d shards take memory, although no peer is listed", n)
	}
}

// A subscriber may call Epoch while a timer trims the shard.
func TestEpochWhileTrimming(t *testing.T) {
	m := New()
	key, peer := []byte("k"), wire.Peer{Endpoint: netip.MustParseAddrPort("192.0.2.1:4000")}
	_, _, sub, err := m.Subscribe(t.Context(), key, wire.Peer{Endpoint: netip.MustParseAddrPort("192.0.2.9:0")}, func() {}, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer sub.Close()
	if _, _, err := m.Announce(t.Context(), key, peer, func(store.Size) time.Duration { return time.Hour }, store.Want{}, nil); err != nil {
		t.Fatal(err)
	}
	if err := m.Leave(t.Context(), key, peer.Endpoint); err != nil {
		t.Fatal(err)
	}
	trimmed := make(chan struct{})
	go func() {
		m.trim()
		close(trimmed)
	}()
	if got := sub.Epoch(); got != m.epoch {
		t.Errorf("epoch %q, want %q", got, m.epoch)
	}
	<-trimmed
}
