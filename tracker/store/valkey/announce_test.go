package valkey

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"ntrack/announce/wire"
	"ntrack/tracker/store"
	"ntrack/tracker/store/valkey/valkeytest"
)

// open opens a store in a database, until the end of the test.
func open(t testing.TB, c Config) *Store {
	t.Helper()
	s, err := Open(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	return s
}

// fixed returns a function for a ttl that does not depend on the size.
func fixed(ttl time.Duration) func(store.Size) time.Duration {
	return func(store.Size) time.Duration { return ttl }
}

// bySize is a ttl that depends on the size.
func bySize(size store.Size) time.Duration {
	return time.Minute + time.Duration(min(size.Peers, 100))*time.Second
}

func show(peers []wire.Peer) string {
	var s []string
	for _, p := range peers {
		s = append(s, p.Endpoint.String())
	}
	slices.Sort(s)
	return strings.Join(s, " ")
}

// TestTwoStores makes random calls to two stores in one database, and compares what they return with a
// simple model. No peer lapses meanwhile.
func TestTwoStores(t *testing.T) {
	engine := valkeytest.Start(t, valkeytest.Options{})
	stores := []*Store{open(t, Config{URL: engine.URL()}), open(t, Config{URL: engine.URL()})}
	other := open(t, Config{URL: engine.URL(), Prefix: "other"})
	model := map[string]map[netip.AddrPort]bool{}
	addrs := []string{"127.0.0.1", "10.0.0.1", "192.0.2.1", "192.0.2.2", "2001:db8::1", "fe80::1"}
	visible := func(key string, asker netip.Addr, but netip.AddrPort) (all string, n int) {
		var peers []wire.Peer
		for e := range model[key] {
			if wire.ScopeOf(asker).Sees(wire.ScopeOf(e.Addr())) {
				if n++; e != but {
					peers = append(peers, wire.Peer{Endpoint: e})
				}
			}
		}
		return show(peers), n
	}
	ttls := []func(store.Size) time.Duration{fixed(time.Minute), bySize, fixed(10 * time.Hour)}
	for range 3000 {
		s := stores[rand.IntN(2)]
		key := fmt.Sprintf("key %d", rand.IntN(5))
		e := netip.AddrPortFrom(netip.MustParseAddr(addrs[rand.IntN(len(addrs))]), uint16(1+rand.IntN(12)))
		want := rand.IntN(2) * 1000
		switch rand.IntN(8) {
		default:
			given, r, err := s.Announce(t.Context(), []byte(key), wire.Peer{Endpoint: e}, ttls[rand.IntN(len(ttls))], store.Want{Peers: want}, nil)
			if err != nil {
				t.Fatal(err)
			}
			if model[key] == nil {
				model[key] = map[netip.AddrPort]bool{}
			}
			model[key][e] = true
			all, n := visible(key, e.Addr(), e)
			if want > 0 && show(given) != all || r.Count != n {
				t.Fatalf("%s announces %q: %s and %+v; want %s and %d", e, key, show(given), r, all, n)
			}
		case 0:
			given, r, err := s.Look(t.Context(), []byte(key), e.Addr(), store.Want{Peers: want}, nil)
			all, n := visible(key, e.Addr(), netip.AddrPort{})
			if err != nil || want > 0 && show(given) != all || r.Count != n {
				t.Fatalf("%s looks at %q: %s and %+v, %v; want %s and %d", e, key, show(given), r, err, all, n)
			}
		case 1:
			if err := s.Leave(t.Context(), []byte(key), e); err != nil {
				t.Fatal(err)
			}
			delete(model[key], e)
		case 2:
			if rand.IntN(20) == 0 {
				if err := s.Remove(t.Context(), []byte(key)); err != nil {
					t.Fatal(err)
				}
				delete(model, key)
			}
		case 3:
			var keys []wire.Key
			if rand.IntN(2) == 0 {
				keys = []wire.Key{wire.KeyOf([]byte(key)), wire.KeyOf([]byte("nothing"))}
			}
			tracks, err := s.Scrape(t.Context(), keys, e.Addr(), nil)
			if err != nil {
				t.Fatal(err)
			}
			got := map[string]int{}
			for _, tr := range tracks {
				if _, twice := got[string(tr.Key.Bytes())]; twice {
					t.Fatalf("%q twice", tr.Key.Bytes())
				}
				got[string(tr.Key.Bytes())] = tr.Count
			}
			for k := range model {
				if _, n := visible(k, e.Addr(), netip.AddrPort{}); (keys == nil || k == key) && got[k] != n {
					t.Fatalf("%q has %d peers, want %d", k, got[k], n)
				}
			}
		}
	}
	if tracks, err := other.Scrape(t.Context(), nil, netip.MustParseAddr("127.0.0.1"), nil); err != nil || len(tracks) > 0 {
		t.Errorf("another prefix has %v, %v", tracks, err)
	}
	for key, peers := range model {
		for e := range peers {
			if err := stores[0].Leave(t.Context(), []byte(key), e); err != nil {
				t.Fatal(err)
			}
		}
	}
	for _, s := range append(stores, other) {
		s.Close()
	}
	if left := fmt.Sprint(engine.Must("KEYS", "*")); left != "[]" {
		t.Errorf("in the end the database has the keys %s", left)
	}
}

// TestOwnPeerAmongMany checks that the sample of a large track has no duplicates and not the asker, while
// others announce and leave.
func TestOwnPeerAmongMany(t *testing.T) {
	s := open(t, Config{URL: valkeytest.Start(t, valkeytest.Options{}).URL()})
	peer := func(i int) wire.Peer {
		return wire.Peer{Endpoint: netip.AddrPortFrom(netip.AddrFrom4([4]byte{192, 0, byte(i >> 8), byte(i)}), 1)}
	}
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		for i := 0; ctx.Err() == nil; i++ {
			p := peer(2000 + i%50)
			_, _, _ = s.Announce(ctx, []byte("k"), p, bySize, store.Want{}, nil)
			_ = s.Leave(ctx, []byte("k"), p.Endpoint)
		}
	}()
	for i := range 3000 {
		p := peer(i % 1000)
		given, r, err := s.Announce(t.Context(), []byte("k"), p, bySize, store.Want{Peers: 30}, nil)
		if err != nil {
			t.Fatal(err)
		}
		seen := map[wire.Peer]bool{p: true}
		for _, g := range given {
			if seen[g] {
				t.Fatalf("%v has got %v twice, or is it", p, g)
			}
			seen[g] = true
		}
		// Between the count and the sample, the other goroutine may have added or removed a peer.
		if n := r.Count - 1; len(given) > min(30, n+1) || len(given) < min(30, n)-1 {
			t.Fatalf("%d peers of %+v", len(given), r)
		}
	}
	stop()
	<-done
}

// TestLapsedAreRemoved checks that announces remove lapsed peers from a set, in steps, and that a set
// expires with its last peer.
func TestLapsedAreRemoved(t *testing.T) {
	engine := valkeytest.Start(t, valkeytest.Options{})
	s := open(t, Config{URL: engine.URL()})
	key := []byte("k")
	set := s.keysOf(key).sets[6]
	add := []string{"ZADD", set}
	for i := range 2500 {
		add = append(add, fmt.Sprint(1000+i/10), memberOf(netip.AddrPortFrom(netip.AddrFrom4([4]byte{192, 0, 2, byte(i >> 8)}), uint16(1+i))))
	}
	engine.Must(add...)
	self := wire.Peer{Endpoint: netip.MustParseAddrPort("192.0.2.99:1")}
	last := int64(2500)
	for i := 0; last > 1; i++ {
		given, r, err := s.Announce(t.Context(), key, self, fixed(time.Minute), store.Want{Peers: 50}, nil)
		if err != nil || len(given) > 0 || r.Count != 1 || r.Size.Peers != 1 || i > 200 {
			t.Fatalf("announce %d: %v, %+v, %v", i, given, r, err)
		}
		n := engine.Must("ZCARD", set).(int64)
		if last-n > maxLapsed+10 {
			t.Fatalf("an announce has removed %d peers", last-n)
		}
		last = n
	}
	for _, k := range []string{set, s.keysOf(key).birth} {
		if ttl := engine.Must("TTL", k).(int64); ttl < 58 || ttl > 125 {
			t.Errorf("%q expires in %d s", k, ttl)
		}
	}
}

// TestRenewalsKeepTheKeys renews a peer often, and checks that its keys never expire before it.
func TestRenewalsKeepTheKeys(t *testing.T) {
	engine := valkeytest.Start(t, valkeytest.Options{})
	stores := []*Store{open(t, Config{URL: engine.URL()}), open(t, Config{URL: engine.URL()})}
	key := []byte("k")
	k := stores[0].keysOf(key)
	for i := range 200 {
		self := wire.Peer{Endpoint: netip.AddrPortFrom(netip.MustParseAddr("192.0.2.1"), uint16(1+i%3))}
		ttl := time.Duration(10+rand.IntN(100)) * time.Duration(1+i) * time.Second
		if _, _, err := stores[i%2].Announce(t.Context(), key, self, fixed(ttl), store.Want{}, nil); err != nil {
			t.Fatal(err)
		}
		var latest string
		for _, text := range engine.Must("ZRANGE", k.sets[6], "-1", "-1", "WITHSCORES").([]any) {
			latest = fmt.Sprint(text)
		}
		for _, name := range []string{k.sets[6], k.birth} {
			if at := fmt.Sprint(engine.Must("EXPIRETIME", name)); len(at) < len(latest) || at < latest {
				t.Fatalf("announce %d: %q expires at %s, its last peer at %s", i, name, at, latest)
			}
		}
	}
}

// A track that has ended begins anew with the lease of a stream, which lets its set expire soon. An
// announce of that peer lasts longer than the lease, so it has to prolong the set.
func TestSetOutlastsLease(t *testing.T) {
	engine := valkeytest.Start(t, valkeytest.Options{})
	s := open(t, Config{URL: engine.URL()})
	key, set := []byte("k"), s.keysOf([]byte("k")).sets[6]
	first := wire.Peer{Endpoint: netip.MustParseAddrPort("192.0.2.1:1")}
	if _, _, err := s.Announce(t.Context(), key, first, fixed(10*time.Minute), store.Want{Peers: 9}, nil); err != nil {
		t.Fatal(err)
	}
	if err := s.Leave(t.Context(), key, first.Endpoint); err != nil {
		t.Fatal(err)
	}
	second := wire.Peer{Endpoint: netip.MustParseAddrPort("192.0.2.2:2")}
	_, _, sub, err := s.Subscribe(t.Context(), key, second, func() {}, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer sub.Close()
	if _, _, err := s.Announce(t.Context(), key, second, fixed(5*time.Minute), store.Want{Peers: 9}, nil); err != nil {
		t.Fatal(err)
	}
	if ttl := engine.Must("TTL", set).(int64); ttl < 299 {
		t.Errorf("the set expires in %d s, before the announce", ttl)
	}
}
