package memory

// How subscriptions are notified: recordChange adds a change to the pending changes of its key. Usually 50
// ms later flush makes them a batch, which all subscriptions of the key share (package feed).

import (
	"context"
	"encoding/binary"
	"net/netip"
	"slices"
	"sync"
	"time"

	"ntrack/announce/wire"
	"ntrack/tracker/store"
	"ntrack/tracker/store/feed"
)

const (
	// maxStreamed is how many peers a track may have when a subscription begins. Peers that the
	// subscriber does not see count, too.
	maxStreamed = 10_000
	// batchTime is how long a batch collects changes before the subscriptions get it. If a track changes all
	// the time, its batches are further apart: by timePerRecipient for each subscription, but at most by
	// maxBatchTime. A write to a connection takes some microseconds. So the writes of one track take about
	// a fifth of a processor at most, however often peers come and go.
	batchTime        = 50 * time.Millisecond
	timePerRecipient = 25 * time.Microsecond
	maxBatchTime     = 500 * time.Millisecond
	// A batch of this many changes is flushed at once, so that it does not end subscriptions.
	maxPending = feed.MaxWaiting / 4
)

// The watchers of a key are its subscriptions, and the changes that they do not have yet. A key can
// have watchers while it has no peers. The lock of the shard guards all fields except flushing and those
// below it.
type watchers struct {
	shard     *shard
	key       string
	subs      []recipient
	heldPeers map[netip.AddrPort]heldPeer // holds.go

	feed         feed.Feed
	timer        *time.Timer   // calls flush; nil if none will
	notBefore    time.Duration // when the next flush may be, by clock.machine
	pendingBytes int           // what the changes since the last flush count for (waiting.go)
	gaveUp       time.Duration // when there was no room for a change; 0 if never

	flushing sync.Mutex // so that each subscription is notified of the batches in order
	counted  []counted  // the batches whose bytes still count, from the oldest
	settling bool       // a timer will call settleLater
}

// A recipient is a subscription, and the tag of the peer that it may hold. endHolds looks at all
// recipients of a key. It reads only the subscriptions with the tag of its peer, which saves a cache miss
// for each of the others.
type recipient struct {
	*subscription
	tag uint32
}

// holderTag is the tag of a peer.
func holderTag(e netip.AddrPort) uint32 {
	a := e.Addr().As16()
	return binary.BigEndian.Uint32(a[12:]) ^ uint32(e.Port())<<16
}

type subscription struct {
	feed.Reader // its Self is the subscriber, which is listed as a peer unless its port is 0
	watchers    *watchers
	index       int32 // in watchers.subs; -1 after Close
	holding     bool  // the subscription keeps Self from lapsing (holds.go)
}

// Subscribe implements [store.Store].
func (m *Store) Subscribe(_ context.Context, key []byte, peer wire.Peer, notify func(), dst []wire.Peer) ([]wire.Peer, store.Size, store.Subscription, error) {
	s, hash := m.shardOf(key)
	s.mu.Lock()
	defer s.mu.Unlock()
	now := m.clock.now()
	nowExpiry := expiryAt(now)
	h := s.lookup(key, hash)
	if h != 0 {
		t := s.tracks.get(h)
		if s.trackLen(t) > maxStreamed {
			return dst, store.Size{}, nil, &store.FullError{What: "peers of this key for an event stream", Max: maxStreamed, Stream: true}
		}
		if t.due.after(nowExpiry) <= 0 { // the track may have lapsed peers
			// The list must not have them. If they stayed in the track, the subscriber would later
			// get leaves of peers that the list did not have. So remove them first.
			h = s.expireAll(h, nowExpiry)
		}
	}
	sub := &subscription{Reader: feed.Reader{Self: peer.Endpoint, Notify: notify}, holding: peer.Endpoint.Port() != 0}
	var self packed // nil if the subscriber is not listed
	if sub.holding {
		var buf [5]uint32
		self = pack(&buf, peer.Endpoint)
		var tab table
		var i int
		var err error
		if h, tab, i, err = s.enter(h, key, hash, self, now); err != nil {
			return dst, store.Size{}, nil, err
		}
		s.watch(key, sub)
		sub.watchers.hold(sub.Self, tab.at(i).expiry(), now)
		tab.at(i).setExpiry(held)
		s.setID(&tab, i, peer.ID)
	} else {
		s.watch(key, sub)
	}
	if h == 0 {
		return dst, store.Size{Total: int(m.peers.Load())}, sub, nil
	}
	t := s.tracks.get(h)
	dst = slices.Grow(dst, s.trackLen(t))
	for fam := range t.heads {
		tab := s.table(t, fam)
		for i := range tab.cap {
			p := tab.at(i)
			if p.empty() || len(p) == len(self) && p.same(self) || !sub.Scope().Sees(wire.ScopeOf(p.addr())) {
				continue
			}
			dst = append(dst, wire.Peer{Endpoint: p.endpoint()})
		}
	}
	return dst, s.size(t, now), sub, nil
}

// watch adds a subscription to the watchers of a key.
func (s *shard) watch(key []byte, sub *subscription) {
	w := s.watched[string(key)]
	if w == nil {
		w = &watchers{shard: s, key: string(key)}
		if s.watched == nil {
			s.watched = make(map[string]*watchers)
		}
		s.watched[w.key] = w
	}
	sub.watchers, sub.index = w, int32(len(w.subs))
	sub.Begin(&w.feed)
	w.subs = append(w.subs, recipient{sub, holderTag(sub.Self)})
}

// recordChange records that a peer has joined or left, if the track has watchers.
func (s *shard) recordChange(t *track, p packed, joined bool) {
	if len(s.watched) == 0 {
		return
	}
	w := s.watched[string(s.keyOf(t))]
	if w == nil {
		return
	}
	e := p.endpoint()
	found := w.feed.Has(e)
	bytes := changeBytes
	if found {
		bytes = numberBytes
	}
	if !s.store.takeChanges(bytes) {
		w.giveUp()
		return
	}
	w.pendingBytes += bytes
	w.feed.Record(e, joined)
	if w.timer == nil {
		w.timer = time.AfterFunc(max(batchTime, w.notBefore-s.store.clock.machine()), w.flush)
	}
	if w.feed.Pending() == maxPending && !found {
		w.timer.Reset(0)
	}
}

// flush makes a batch of the pending changes, and notifies the subscriptions. It locks the shard
// only while it takes the changes and copies the list of subscriptions.
func (w *watchers) flush() {
	w.flushing.Lock()
	defer w.flushing.Unlock()
	w.shard.mu.Lock()
	if w.feed.Pending() == 0 { // two timers may fire for one batch
		w.shard.mu.Unlock()
		return
	}
	subs := w.shard.store.recipients.Get().(*[]recipient)
	// No change is about a subscriber: it joined before its subscription began, and its leave ends the
	// subscription.
	b := w.feed.Flush(nil)
	w.counted = append(w.counted, counted{b, w.pendingBytes})
	w.pendingBytes, w.timer = 0, nil
	w.notBefore = w.shard.store.clock.machine() + min(maxBatchTime, time.Duration(len(w.subs))*timePerRecipient)
	*subs = append((*subs)[:0], w.subs...)
	w.shard.mu.Unlock()
	for _, sub := range *subs {
		sub.Pass(b)
	}
	w.settle(*subs, b.Next())
	clear(*subs)
	w.shard.store.recipients.Put(subs)
}

// Close implements [store.Subscription].
func (sub *subscription) Close() {
	w := sub.watchers
	w.shard.mu.Lock()
	defer w.shard.mu.Unlock()
	if sub.index < 0 {
		return
	}
	end := len(w.subs) - 1
	w.subs[sub.index] = w.subs[end]
	w.subs[sub.index].index = sub.index
	w.subs = slices.Delete(w.subs, end, end+1)
	sub.index = -1
	sub.End()
	if sub.holding {
		w.unhold(sub.Self)
	}
	if len(w.subs) == 0 {
		delete(w.shard.watched, w.key)
	}
}

// Epoch implements [store.Subscription]. It is the same as long as the store exists, because a store
// removes only peers that have left or lapsed.
func (sub *subscription) Epoch() string { return sub.watchers.shard.store.epoch }

// Age implements [store.Subscription].
func (sub *subscription) Age() time.Duration { return sub.watchers.shard.store.clock.machine() }
