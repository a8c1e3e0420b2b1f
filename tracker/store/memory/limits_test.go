package memory

import (
	"net/netip"
	"testing"
	"time"

	"ntrack/announce/wire"
	"ntrack/tracker/store"
)

// The counters of addresses take no memory once nobody is listed, and count to 65535 at most,
// whatever the limit says.
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
		t.Error("one too many for a counter")
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
		t.Errorf("one address takes the counters of %d shards", n)
	}
	for port := range most {
		if err := m.Leave(t.Context(), []byte("k"), netip.AddrPortFrom(netip.MustParseAddr("192.0.2.1"), uint16(1+port))); err != nil {
			t.Fatal(err)
		}
	}
	if n := used(); n != 0 {
		t.Errorf("no address takes the counters of %d shards", n)
	}
}
