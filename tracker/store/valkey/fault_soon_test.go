package valkey_test

import (
	"testing"

	"ntrack/tracker/store/valkey"
	"ntrack/tracker/store/valkey/valkeytest"
)

// A stream moves to another tracker, and the peer leaves at once, while messages about both streams are
// still on their way. The Leave ends the new stream.
func TestFaultLeaveSoon(t *testing.T) {
	t.Parallel()
	engine := valkeytest.Start(t, valkeytest.Options{})
	a := open(t, valkey.Config{URL: engine.URL()})
	b := open(t, valkey.Config{URL: engine.URL()})
	l := &ledger{}
	const key = "k"
	watcher := watch(t, l, a, key)
	watch(t, l, b, key)
	for i := range 150 {
		member(t, l, a, key, peer(i)).close()
		second := member(t, l, b, key, peer(i))
		must(t, leave(a, key, peer(i)))
		eventually(t, repaired, func() error { return ended(second) })
	}
	agree(t, repaired, a, key, nil, watcher)
}

// Two trackers remove a track, one soon after the other. Streams that began in between end.
func TestFaultRemoveTwice(t *testing.T) {
	t.Parallel()
	engine := valkeytest.Start(t, valkeytest.Options{})
	a := open(t, valkey.Config{URL: engine.URL()})
	b := open(t, valkey.Config{URL: engine.URL()})
	l := &ledger{}
	const key = "k"
	first := watch(t, l, a, key)
	must(t, a.Remove(t.Context(), []byte(key)))
	eventually(t, repaired, func() error { return ended(first) })
	// The message of that Remove comes before the one about this member.
	second, other := member(t, l, a, key, peer(1)), watch(t, l, b, key)
	agree(t, repaired, b, key, peers(1, 2), other)
	agree(t, repaired, a, key, peers(1, 2), second)
	must(t, b.Remove(t.Context(), []byte(key)))
	eventually(t, repaired, func() error { return ended(second) })
	agree(t, repaired, a, key, nil)
}
