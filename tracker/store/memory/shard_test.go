package memory

import (
	"fmt"
	"net/netip"
	"testing"
	"time"

	"ntrack/announce/wire"
	"ntrack/tracker/store"
)

// Keys of the same hash have tracks of their own.
func TestKeysOfOneHash(t *testing.T) {
	s := &New().shards[0]
	s.rehash(8) // so that no track moves to the bucket of its real hash
	const hash = 0xfedcba9876543210
	keys := []string{"a", "b", "ab", "a\x00"}
	handles := map[handle]bool{}
	for _, k := range keys {
		if h := s.lookup([]byte(k), hash); h != 0 {
			t.Errorf("%q is found as %q", k, s.keyOf(s.tracks.one(h)))
		}
		handles[s.add([]byte(k), hash, 0)] = true
	}
	for _, k := range keys {
		h := s.lookup([]byte(k), hash)
		if h == 0 || string(s.keyOf(s.tracks.one(h))) != k {
			t.Errorf("%q is not found", k)
		}
		delete(handles, h)
	}
	if len(handles) > 0 {
		t.Errorf("%d keys are not found", len(handles))
	}
}

// Without IDs no memory is allocated for them.
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
			t.Errorf("%d pages for no IDs", n)
		}
	}
}

// The counters of addresses take no memory while no peer is listed. They count to 65535 at most,
// whatever the limit.
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
		t.Error("a counter exceeds its maximum")
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
		t.Errorf("for one address the counters of %d shards take memory", n)
	}
	for port := range most {
		if err := m.Leave(t.Context(), []byte("k"), netip.AddrPortFrom(netip.MustParseAddr("192.0.2.1"), uint16(1+port))); err != nil {
			t.Fatal(err)
		}
	}
	if n := used(); n != 0 {
		t.Errorf("without an address the counters of %d shards take memory", n)
	}
}

// A subscriber may ask for its epoch while housekeeping empties the table of the shard.
func TestEpochWhileTrimming(t *testing.T) {
	m := New()
	key, peer := []byte("k"), wire.Peer{Endpoint: netip.MustParseAddrPort("192.0.2.1:4000")}
	_, sub, err := m.Subscribe(t.Context(), key, wire.Peer{Endpoint: netip.MustParseAddrPort("192.0.2.9:0")}, func() {}, nil)
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
