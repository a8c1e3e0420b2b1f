package valkey

import (
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	"ntrack/announce/wire"
	"ntrack/tracker/store"
	"ntrack/tracker/store/valkey/valkeytest"
)

// Peers announce while a stream holds them, and are gone without a word. Nothing of them remains when their
// announces have lapsed, even if the track goes on.
func TestAnnouncesUnderStreamsAreRemoved(t *testing.T) {
	t.Parallel()
	v := startVirtual(t, valkeytest.Options{})
	synctest.Test(t, func(t *testing.T) {
		defer v.empty(t)
		time.Sleep(24 * time.Hour) // a bubble begins with the year 2000, and scores before it are not kept
		s, err := Open(t.Context(), Config{URL: v.engine.URL(), adjust: v.adjust})
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		key := []byte("k")
		const ttl = 10 * time.Minute
		announces := s.keysOf(key).announces
		for i := range 100 {
			self := netip.AddrPortFrom(netip.AddrFrom4([4]byte{203, 0, 113, byte(i)}), 1)
			_, _, sub, err := s.Subscribe(t.Context(), key, wire.Peer{Endpoint: self}, func() {}, nil)
			if err != nil {
				t.Fatal(err)
			}
			if _, _, err := s.Announce(t.Context(), key, wire.Peer{Endpoint: self}, fixed(ttl), store.Want{}, nil); err != nil {
				t.Fatal(err)
			}
			time.Sleep(time.Minute)
			sub.Close()
		}
		if n := v.engine.Must("ZCARD", announces).(int64); n > 11 {
			t.Errorf("%d announces are recorded, and 11 peers at most are listed", n)
		}
		time.Sleep(ttl + time.Minute)
		if n := countOf(t, s, "k"); n != 0 {
			t.Errorf("after the last ttl %d peers are listed", n)
		}

		// A stream that begins after an announce records it, and removes what a tracker that died has left.
		self := netip.MustParseAddrPort("203.0.113.1:2")
		v.engine.Must("ZADD", announces, "1", "old")
		if _, _, err := s.Announce(t.Context(), key, wire.Peer{Endpoint: self}, fixed(10*time.Second), store.Want{}, nil); err != nil {
			t.Fatal(err)
		}
		_, _, sub, err := s.Subscribe(t.Context(), key, wire.Peer{Endpoint: self}, func() {}, nil)
		if err != nil {
			t.Fatal(err)
		}
		defer sub.Close()
		if got := v.engine.Must("ZRANGE", announces, "0", "-1").([]any); len(got) != 1 || got[0] != memberOf(self) {
			t.Errorf("the announces under streams are %q", got)
		}
	})
}
