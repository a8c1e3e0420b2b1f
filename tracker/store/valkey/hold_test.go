package valkey

import (
	"context"
	"errors"
	"net/netip"
	"testing"
	"time"

	"ntrack/announce/wire"
	"ntrack/tracker/store"
	"ntrack/tracker/store/feed"
	"ntrack/tracker/store/valkey/valkeytest"
)

// watchedTrack returns a track without a database, whose partition does no rounds by itself.
func watchedTrack() *track {
	s := &Store{prefix: DefaultPrefix, total: newTotal()}
	s.watch.channels.name = "this tracker"
	p := &partition{store: s, running: true, wake: make(chan struct{}, 1)}
	t := &track{part: p, key: "k", keys: s.keysOf([]byte("k"))}
	p.tracks = map[string]*track{t.key: t}
	return t
}

// subscriber returns a subscription to the track that has not begun yet.
func (t *track) subscriber(self string) *subscription {
	return &subscription{Reader: feed.Reader{Self: netip.MustParseAddrPort(self), Notify: func() {}}, track: t, index: -1}
}

// Two streams of a peer wait for its lease when the peer leaves. Both hold it after that, so that the end of
// one does not end the hold of the other.
func TestHoldAgain(t *testing.T) {
	tr := watchedTrack()
	for range 2 {
		q := &request{sub: tr.subscriber("192.0.2.1:1"), state: read}
		tr.requests = append(tr.requests, q)
		tr.hold(q.sub)
	}
	self := tr.requests[0].sub.Self
	tr.dropHold(self)
	for _, q := range tr.requests {
		if q.sub.holding {
			t.Error("a stream seems to hold a peer that has left")
		}
	}
	r := &round{part: tr.part, now: time.Now(), serial: 1}
	r.take(tr)
	if h := tr.holds[self]; h == nil || h.subs != 2 {
		t.Fatalf("the hold is %+v, want one of 2 streams", h)
	}
	if len(r.leases) != 1 || len(r.leases[0].peers) != 1 || !r.leases[0].fresh[self] {
		t.Errorf("the leases to write are %+v", r.leases)
	}
}

// A stream begins before the end of an earlier one has been carried out. It does not begin until its lease has
// been written, and its end closes the earlier lease if that does not happen any more.
func TestHoldSoonAgain(t *testing.T) {
	tr := watchedTrack()
	self := netip.MustParseAddrPort("192.0.2.1:1")
	c, end := closing{tr.key, self}, ending{lease: 99}
	tr.part.close(c, end)
	q := &request{sub: tr.subscriber(self.String()), state: read, done: make(chan error, 1)}
	tr.requests = append(tr.requests, q)
	tr.hold(q.sub)
	if len(tr.part.closing) != 0 {
		t.Error("the earlier lease is closed, though a stream holds the peer")
	}
	tr.beginAll()
	if q.state != read {
		t.Error("the stream begins before its lease has been written")
	}
	tr.unhold(q.sub)
	if got := tr.part.closing[c]; got != end {
		t.Errorf("after the end of the stream, %+v is closed, want %+v", got, end)
	}
}

// The message about the first lease of a hold may be lost. Some seconds later, a Leave counts nevertheless.
func TestHoldReported(t *testing.T) {
	now := time.Now()
	for _, c := range []struct {
		hold hold
		want bool
	}{
		{hold{}, false}, // the lease has not been written
		{hold{began: now.Add(-settleTime)}, false},
		{hold{began: now.Add(-settleTime - 1)}, true},
		{hold{began: now, reported: true}, true},
	} {
		if got := c.hold.isReported(now); got != c.want {
			t.Errorf("%+v: %v", c.hold, got)
		}
	}
}

// A message says that a track was removed. It ends the streams that look, and those whose peers were held
// before. If it is this tracker's own, Remove has done that.
func TestRemovedBefore(t *testing.T) {
	for sender, ends := range map[string]bool{"another tracker": true, "this tracker": false} {
		tr := watchedTrack()
		const before, after, looks = "192.0.2.1:1", "192.0.2.2:2", "192.0.2.3:0"
		subs := make(map[string]*subscription)
		for _, self := range []string{before, after, looks} {
			sub := tr.subscriber(self)
			sub.Begin(&tr.feed)
			tr.subs = append(tr.subs, sub)
			subs[self] = sub
			if sub.Self.Port() != 0 {
				h := tr.hold(sub)
				h.lease, h.missing, h.serial = 99, false, 7
			}
		}
		head := tr.part.store.heldHead
		message := func(text string) { tr.part.message(tr.key, text) }
		message(head(7) + memberOf(subs[before].Self))
		// These are about earlier holds of the other peer.
		message(head(6) + memberOf(subs[after].Self))
		message(string(kindHeld) + "that tracker" + string(make([]byte, 8)) + memberOf(subs[after].Self))
		message(string(kindRemoved) + sender)
		for self, sub := range subs {
			if _, live := sub.Next(); live == (ends && self != after) {
				t.Errorf("after the message of %s, the stream of %s is open: %v", sender, self, live)
			}
		}
		if ends {
			if end := tr.part.closing[closing{tr.key, subs[before].Self}]; !end.left {
				t.Errorf("the lease is closed by %+v, though the peer has left", end)
			}
			if h := tr.holds[subs[after].Self]; h == nil || !h.missing {
				t.Errorf("the peer that was held later is not put back: %+v", h)
			}
		}
	}
}

// A peer leaves at one tracker, and announces to another at once. Its stream at a third one ends.
func TestLeaveThenAnnounce(t *testing.T) {
	t.Parallel()
	e := valkeytest.Start(t, valkeytest.Options{})
	s := openReal(t, e)
	self := netip.MustParseAddrPort("192.0.2.1:1")
	member := watch(t, s, "k", self.String())
	k := s.keysOf([]byte("k"))
	set := k.sets[setOf(self.Addr())]
	e.Must("ZREM", set, memberOf(self))
	if _, _, err := s.Announce(t.Context(), []byte("k"), wire.Peer{Endpoint: self}, fixed(time.Hour), store.Want{}, nil); err != nil {
		t.Fatal(err)
	}
	e.Must("SPUBLISH", k.channel, string(kindLeft)+memberOf(self))
	for timeout := time.After(20 * time.Second); ; {
		if _, live := member.sub.Next(); !live {
			break
		}
		select {
		case <-member.wake:
		case <-timeout:
			t.Fatal("the stream has not ended")
		}
	}
	if n := countOf(t, s, "k"); n != 1 {
		t.Errorf("%d peers are listed, want the one that has announced", n)
	}
}

// A peer leaves while its tracker hands its streams over. The end of its stream does not list it again.
func TestKeepHoldsOfNoPeer(t *testing.T) {
	t.Parallel()
	e := valkeytest.Start(t, valkeytest.Options{})
	a, b := openReal(t, e), openReal(t, e)
	self := netip.MustParseAddrPort("192.0.2.1:1")
	watch(t, a, "k", self.String())
	a.KeepHolds()
	e.Must("ZREM", a.keysOf([]byte("k")).sets[setOf(self.Addr())], memberOf(self)) // its message is on the way
	a.Close()
	if n := countOf(t, b, "k"); n != 0 {
		t.Errorf("%d peers are listed", n)
	}
}

// A stream ends while its lease is being written. The lease is closed, unless another stream of the peer has
// begun meanwhile.
func TestLeaseOfEndedStream(t *testing.T) {
	for _, again := range []bool{false, true} {
		tr := watchedTrack()
		self := netip.MustParseAddrPort("192.0.2.1:1")
		newer := &track{part: tr.part, key: tr.key, keys: tr.keys}
		tr.part.tracks[tr.key] = newer // the other one was forgotten with its stream
		if again {
			newer.hold(newer.subscriber(self.String()))
		}
		tr.part.applyLeases(&round{part: tr.part}, &leases{track: tr, peers: []netip.AddrPort{self}, lease: 99})
		if end, closes := tr.part.closing[closing{tr.key, self}]; closes == again || closes && end.lease != 99 {
			t.Errorf("another stream: %v; the lease is closed: %v %+v", again, closes, end)
		}
	}
}

// A call of Subscribe is given up while the lease of its peer is being written. Nothing holds the peer then.
func TestHoldOfAbandoned(t *testing.T) {
	tr := watchedTrack()
	looker := tr.subscriber("192.0.2.9:0") // the track goes on
	tr.subs = append(tr.subs, looker)
	q := &request{sub: tr.subscriber("192.0.2.1:1"), state: read, done: make(chan error, 1)}
	tr.requests = append(tr.requests, q)
	tr.hold(q.sub)
	if err := tr.part.abandon(q, context.Canceled); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	if held := tr.part.store.total.held.Load(); held != 0 || len(tr.holds) != 0 || len(tr.requests) != 0 {
		t.Errorf("%d peers are held, by %v", held, tr.holds)
	}
}

// The database does not answer while a lease is being written. It is written again.
func TestLeaseAfterFailure(t *testing.T) {
	tr := watchedTrack()
	sub := tr.subscriber("192.0.2.1:1")
	tr.hold(sub)
	tr.missing = true
	for range 2 {
		r := &round{part: tr.part, now: time.Now()}
		if r.take(tr); len(r.leases) != 1 || len(r.leases[0].peers) != 1 {
			t.Fatalf("the leases to write are %+v", r.leases)
		}
		tr.part.fail(r, context.DeadlineExceeded)
	}
}
