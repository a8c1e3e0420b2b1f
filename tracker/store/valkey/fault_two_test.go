package valkey_test

import (
	"net/netip"
	"slices"
	"testing"
	"time"

	"ntrack/announce/wire"
	"ntrack/tracker/store"
	"ntrack/tracker/store/valkey"
	"ntrack/tracker/store/valkey/valkeytest"
)

// Two trackers share a table: each reports what happens at the other, and counts the peers of both.
func TestFaultTwoTrackers(t *testing.T) {
	t.Parallel()
	for name, options := range map[string]valkeytest.Options{
		"Redis":   {Program: valkeytest.Redis},
		"Valkey":  {Program: valkeytest.Valkey},
		"Cluster": {Program: valkeytest.Valkey, Masters: 3},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			engine := valkeytest.Start(t, options)
			twoTrackers(t, engine.URL())
		})
	}
}

func twoTrackers(t *testing.T, url string) {
	ctx := t.Context()
	a := open(t, valkey.Config{URL: url})
	b := open(t, valkey.Config{URL: url})
	other := open(t, valkey.Config{URL: url, Prefix: "other"})
	l := &ledger{}
	const key = "k"
	atA, atB := watch(t, l, a, key), watch(t, l, b, key)
	elsewhere := watch(t, l, other, key)
	agreeBoth := func(want ...netip.AddrPort) {
		t.Helper()
		agree(t, repaired, a, key, want, atA, atB)
		agree(t, repaired, b, key, want)
	}

	// An announce at one tracker is a join at both, and so on.
	r, err := announce(a, key, peer(1), longTTL)
	must(t, err)
	if r.Count != 1 {
		t.Errorf("the first announce has the count %d", r.Count)
	}
	agreeBoth(peer(1))
	r, err = announce(b, key, peer(2), longTTL)
	must(t, err)
	if r.Count != 2 {
		t.Errorf("the second announce, at the other tracker, has the count %d", r.Count)
	}
	agreeBoth(peer(1), peer(2))
	for _, s := range []*valkey.Store{a, b} {
		tracks, err := s.Scrape(ctx, nil, netip.MustParseAddr("192.0.2.9"), nil)
		must(t, err)
		if len(tracks) != 1 || string(tracks[0].Key.Bytes()) != key || tracks[0].Count != 2 {
			t.Errorf("all tracks are %v", tracks)
		}
		tracks, err = s.Scrape(ctx, []wire.Key{wire.KeyOf([]byte(key)), wire.KeyOf([]byte("none"))}, netip.MustParseAddr("192.0.2.9"), nil)
		must(t, err)
		if len(tracks) != 2 || tracks[0].Count+tracks[1].Count != 2 {
			t.Errorf("a scrape has %v", tracks)
		}
	}
	must(t, leave(b, key, peer(1)))
	agreeBoth(peer(2))

	// A peer announces at a, and renews at b for longer. It lapses once, at the later time.
	_, err = announce(a, key, peer(3), 2*time.Second)
	must(t, err)
	_, err = announce(b, key, peer(3), 4*time.Second)
	must(t, err)
	renewed := time.Now()
	agreeBoth(peer(2), peer(3))
	agreeBoth(peer(2))
	for _, w := range []*watcher{atA, atB} {
		if after := w.leftAt(peer(3)).Sub(renewed); after < 3*time.Second {
			t.Errorf("a peer with a ttl of 4 s lapsed after %v", after)
		}
	}

	// A member's stream moves from a to b, which it opens before the end of the other. Nobody sees it
	// leave.
	first := member(t, l, a, key, peer(4))
	agreeBoth(peer(2), peer(4))
	l.stays(key, peer(2), peer(4))
	second := member(t, l, b, key, peer(4))
	first.close()
	_, err = announce(a, key, peer(5), longTTL)
	must(t, err)
	agreeBoth(peer(2), peer(4), peer(5))
	// And back.
	third := member(t, l, a, key, peer(4))
	second.close()
	must(t, leave(b, key, peer(5)))
	agreeBoth(peer(2), peer(4))
	// After the end of the last stream, an announce still lists the member.
	_, err = announce(b, key, peer(4), longTTL)
	must(t, err)
	third.close()
	_, err = announce(a, key, peer(6), longTTL)
	must(t, err)
	agreeBoth(peer(2), peer(4), peer(6))
	// The stream moves, and the old tracker closes it first.
	fourth := member(t, l, a, key, peer(7))
	agreeBoth(peer(2), peer(4), peer(6), peer(7))
	fourth.close()
	fifth := member(t, l, b, key, peer(7))
	agreeBoth(peer(2), peer(4), peer(6), peer(7))
	if at := atA.leftAt(peer(7)); !at.IsZero() && time.Since(at) > repaired {
		t.Errorf("the member left at %v", at)
	}
	// A Leave at a ends the stream at b.
	must(t, leave(a, key, peer(7)))
	l.goes(key, peer(2), peer(4), peer(6))
	eventually(t, repaired, func() error { return ended(fifth) })
	agreeBoth(peer(2), peer(4), peer(6))

	// Remove at b ends every subscription, and all peers leave.
	must(t, b.Remove(ctx, []byte(key)))
	for _, w := range []*watcher{atA, atB} {
		eventually(t, repaired, func() error { return ended(w) })
	}
	agree(t, repaired, a, key, nil)
	if sees, live := elsewhere.view(); len(sees) != 0 || !live {
		t.Errorf("a table with another prefix has %v (live: %v)", sees, live)
	}

	// Of two peers that announce at the same time, at least one gets the other.
	for i := range 50 {
		key := []byte{'t', byte(i)}
		type reply struct {
			peers []wire.Peer
			err   error
		}
		replies := make(chan reply, 2)
		for j, s := range []*valkey.Store{a, b} {
			go func() {
				given, _, err := s.Announce(ctx, key, wire.Peer{Endpoint: peer(j)}, func(store.Size) time.Duration { return longTTL }, store.Want{Peers: 50}, nil)
				replies <- reply{given, err}
			}()
		}
		one, two := <-replies, <-replies
		must(t, one.err)
		must(t, two.err)
		if len(slices.Concat(one.peers, two.peers)) == 0 {
			t.Errorf("two peers announced at the same time, and none got the other")
		}
	}
}
