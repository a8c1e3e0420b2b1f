package memory

// How subscriptions are notified: recordChange adds a change to the pending changes of its key. Usually 50
// ms later flush makes them a batch, which all subscriptions of the key share.

import (
	"context"
	"encoding/binary"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"ntrack/announce/wire"
	"ntrack/tracker/store"
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
	// A subscription ends if more than maxBatches batches or maxWaiting changes wait for it. Its
	// client then subscribes again, and gets a list of at most maxStreamed peers instead.
	maxBatches = 256
	maxWaiting = 2 * maxStreamed
	// A batch of this many changes is flushed at once, so that it does not end subscriptions.
	maxPending = maxWaiting / 4
)

// The watchers of a key are its subscriptions, and the changes that they do not have yet. A key can
// have watchers while it has no peers. The lock of the shard guards all fields except flushing and those
// below it.
type watchers struct {
	shard     *shard
	key       string
	subs      []recipient
	heldPeers map[netip.AddrPort]heldPeer // holds.go

	pending      []change               // since the last flush
	pendingIndex map[netip.AddrPort]int // of each endpoint in pending
	recorded     int64                  // how many joins and leaves there have been
	timer        *time.Timer            // calls flush; nil if none will
	notBefore    time.Duration          // when the next flush may be, by clock.machine
	next         *batch                 // gets the pending changes
	pendingBytes int                    // what they count for (waiting.go)
	gaveUp       time.Duration          // when there was no room for a change; 0 if never

	flushing sync.Mutex // so that each subscription is notified of the batches in order
	oldest   *batch     // the first batch whose bytes still count; nil before the first flush
	settling bool       // a timer will call settleLater
}

// A change is all joins and leaves of one peer in a batch. Joins and leaves alternate.
type change struct {
	endpoint netip.AddrPort
	scope    wire.Scope
	joined   bool    // the last one is a join
	numbers  []int64 // of these joins and leaves: the first join or leave of the key has number 0
}

// A batch has the changes of 50 ms, or of up to maxBatchTime. The batches of a key are a list, and each
// subscription has its place in it. So a batch is in memory once, however many subscriptions wait for it,
// and only until all of them have gone past it. The last batch of the list is empty until the next flush.
type batch struct {
	number int   // of the batches before this one
	before int   // how many changes they have
	first  int64 // the number of the first join or leave that is recorded for this batch

	// These are set by flush, which sets next last.
	bytes   int // what the changes count for
	changes []change
	next    atomic.Pointer[batch]

	// shared has what subscriptions in each scope see, if they began before the batch.
	shared [wire.NumScopes]atomic.Pointer[store.Batch]
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
	watchers *watchers
	notify   func()
	place    atomic.Pointer[batch] // the batch that Next looks at first; nil after the end
	from     int64                 // the number of the first join or leave after the subscription began
	self     netip.AddrPort        // the subscriber, which is listed as a peer unless its port is 0
	index    int32                 // in watchers.subs; -1 after Close
	scope    wire.Scope
	holding  bool // the subscription keeps self from lapsing (holds.go)
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
	sub := &subscription{self: peer.Endpoint, scope: wire.ScopeOf(peer.Endpoint.Addr()), holding: peer.Endpoint.Port() != 0, notify: notify}
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
		sub.watchers.hold(sub.self, tab.at(i).expiry(), now)
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
			if p.empty() || len(p) == len(self) && p.same(self) || !sub.scope.Sees(wire.ScopeOf(p.addr())) {
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
		w = &watchers{shard: s, key: string(key), next: new(batch)}
		if s.watched == nil {
			s.watched = make(map[string]*watchers)
		}
		s.watched[w.key] = w
	}
	sub.watchers, sub.index, sub.from = w, int32(len(w.subs)), w.recorded
	sub.place.Store(w.next)
	w.subs = append(w.subs, recipient{sub, holderTag(sub.self)})
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
	i, found := w.pendingIndex[e]
	bytes := changeBytes
	if found {
		bytes = numberBytes
	}
	if !s.store.takeChanges(bytes) {
		w.giveUp()
		return
	}
	w.pendingBytes += bytes
	if !found {
		if w.pendingIndex == nil {
			w.pendingIndex = make(map[netip.AddrPort]int)
		}
		i = len(w.pending)
		w.pendingIndex[e] = i
		w.pending = append(w.pending, change{endpoint: e, scope: wire.ScopeOf(e.Addr())})
	}
	c := &w.pending[i]
	c.joined, c.numbers = joined, append(c.numbers, w.recorded)
	w.recorded++
	if w.timer == nil {
		w.timer = time.AfterFunc(max(batchTime, w.notBefore-s.store.clock.machine()), w.flush)
	}
	if len(w.pending) == maxPending && !found {
		w.timer.Reset(0)
	}
}

// flush makes a batch of the pending changes, and notifies the subscriptions. It locks the shard
// only while it takes the changes and copies the list of subscriptions.
func (w *watchers) flush() {
	w.flushing.Lock()
	defer w.flushing.Unlock()
	w.shard.mu.Lock()
	if len(w.pending) == 0 { // two timers may fire for one batch
		w.shard.mu.Unlock()
		return
	}
	subs := w.shard.store.recipients.Get().(*[]recipient)
	b := w.next
	next := &batch{number: b.number + 1, before: b.before + len(w.pending), first: w.recorded}
	b.changes, b.bytes, w.next = w.pending, w.pendingBytes, next
	w.pending, w.pendingIndex, w.pendingBytes, w.timer = nil, nil, 0, nil
	w.notBefore = w.shard.store.clock.machine() + min(maxBatchTime, time.Duration(len(w.subs))*timePerRecipient)
	*subs = append((*subs)[:0], w.subs...)
	w.shard.mu.Unlock()
	b.next.Store(next)
	for _, sub := range *subs {
		sub.pass(b)
	}
	if w.oldest == nil {
		w.oldest = b
	}
	w.settle(*subs, next)
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
	sub.place.Store(nil)
	if sub.holding {
		w.unhold(sub.self)
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

// pass notifies the subscriber of a batch that has just been flushed. If the subscriber sees nothing
// in it and has no other batch to take, pass goes past the batch. It never waits for the subscriber.
func (sub *subscription) pass(b *batch) {
	next, sees := b.next.Load(), sub.seesAny(b)
	if !sees && sub.place.CompareAndSwap(b, next) {
		return
	}
	place := sub.place.Load()
	if place == nil {
		return
	}
	full := next.number-place.number > maxBatches || next.before-place.before > maxWaiting
	if full {
		sub.place.Store(nil)
	}
	if sees || full {
		sub.notify()
	}
}

// Next implements [store.Subscription].
func (sub *subscription) Next() (*store.Batch, bool) {
	for {
		b := sub.place.Load()
		if b == nil {
			return nil, false
		}
		next := b.next.Load()
		if next == nil {
			return nil, true
		}
		// The place may change at the same time: pass ends the subscription, or goes past b.
		if sub.place.CompareAndSwap(b, next) && sub.seesAny(b) {
			return sub.view(b), true
		}
	}
}

// beganBefore reports whether the subscription began before all changes of a batch.
func (sub *subscription) beganBefore(b *batch) bool { return sub.from <= b.first }

// seesAny reports whether the subscriber sees a change of a batch.
func (sub *subscription) seesAny(b *batch) bool {
	if sub.beganBefore(b) {
		return len(sub.view(b).Changes) > 0
	}
	return slices.ContainsFunc(b.changes, func(c change) bool { return sub.sees(&c) })
}

// view returns the changes of a batch that the subscriber sees. A subscription that began during
// the batch has a view of its own. All others in its scope share one.
func (sub *subscription) view(b *batch) *store.Batch {
	shared := &b.shared[sub.scope]
	began := sub.beganBefore(b)
	if began {
		if v := shared.Load(); v != nil {
			return v
		}
	}
	v := new(store.Batch)
	for i := range b.changes {
		if c := &b.changes[i]; sub.sees(c) {
			v.Changes = append(v.Changes, store.Change{Endpoint: c.endpoint, Joined: c.joined})
		}
	}
	if began && !shared.CompareAndSwap(nil, v) {
		return shared.Load()
	}
	return v
}

// sees reports whether c changes what the subscriber knows. The subscriber must see the peer. The
// number of joins and leaves since the subscription began must be odd, because a join and a leave
// undo each other. c is never about the subscriber itself: it joined before the subscription began,
// and its leave ends the subscription.
func (sub *subscription) sees(c *change) bool {
	odd := false
	for _, n := range c.numbers {
		if n >= sub.from {
			odd = !odd
		}
	}
	return odd && sub.scope.Sees(c.scope)
}
