package memory

// How subscriptions are notified: recordChange adds a change to the batch of its key, and 50 ms
// later flush adds the batch to the queue of each subscription.

import (
	"context"
	"net/netip"
	"slices"
	"sync"
	"time"

	"ntrack/announce/wire"
	"ntrack/tracker/store"
)

const (
	// maxStreamed is how many peers a track may have when a subscription begins. Peers that the
	// subscriber does not see count, too.
	maxStreamed = 10_000
	// batchTime is how long a batch collects changes before the subscriptions get it.
	batchTime = 50 * time.Millisecond
	// A subscription ends if more than maxBatches batches or maxWaiting changes wait in its queue.
	// Its client then subscribes again, and gets a list of at most maxStreamed peers instead.
	maxBatches = 256
	maxWaiting = 2 * maxStreamed
)

// The watchers of a key are its subscriptions, and the batch of changes that they do not have yet.
// A key can have watchers while it has no peers. The lock of the shard guards all fields except
// flushing and recipients.
type watchers struct {
	shard     *shard
	key       string
	subs      []*subscription
	heldPeers map[netip.AddrPort]heldPeer // holds.go

	batch      []change               // since the last flush
	batchIndex map[netip.AddrPort]int // of each endpoint in batch
	recorded   int64                  // how many joins and leaves there have been
	scheduled  bool                   // a timer will call flush

	flushing   sync.Mutex      // so that each subscription gets the batches in order
	recipients []*subscription // of a batch: memory that flush uses again
}

// A change is all joins and leaves of one peer in a batch. Joins and leaves alternate.
type change struct {
	endpoint netip.AddrPort
	scope    wire.Scope
	joined   bool    // the last one is a join
	numbers  []int64 // of these joins and leaves: the first join or leave of the key has number 0
}

type subscription struct {
	watchers *watchers
	self     netip.AddrPort // the subscriber, which is listed as a peer unless its port is 0
	scope    wire.Scope
	index    int   // in watchers.subs; -1 after Close
	from     int64 // the number of the first join or leave after the subscription began
	holding  bool  // the subscription keeps self from lapsing (holds.go)
	notify   func()

	mu      sync.Mutex
	queue   [][]change
	waiting int // changes in the queue
	ended   bool
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
		w = &watchers{shard: s, key: string(key)}
		if s.watched == nil {
			s.watched = make(map[string]*watchers)
		}
		s.watched[w.key] = w
	}
	sub.watchers, sub.index, sub.from = w, len(w.subs), w.recorded
	w.subs = append(w.subs, sub)
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
	i, found := w.batchIndex[e]
	if !found {
		if w.batchIndex == nil {
			w.batchIndex = make(map[netip.AddrPort]int)
		}
		i = len(w.batch)
		w.batchIndex[e] = i
		w.batch = append(w.batch, change{endpoint: e, scope: wire.ScopeOf(e.Addr())})
	}
	c := &w.batch[i]
	c.joined, c.numbers = joined, append(c.numbers, w.recorded)
	w.recorded++
	if !w.scheduled {
		w.scheduled = true
		time.AfterFunc(batchTime, w.flush)
	}
}

// flush gives the batch to the subscriptions. It locks the shard only while it takes the batch and
// copies the list of subscriptions.
func (w *watchers) flush() {
	w.flushing.Lock()
	defer w.flushing.Unlock()
	w.shard.mu.Lock()
	batch := w.batch
	w.batch, w.batchIndex, w.scheduled = nil, nil, false
	w.recipients = append(w.recipients[:0], w.subs...)
	w.shard.mu.Unlock()
	for _, sub := range w.recipients {
		sub.push(batch)
	}
	clear(w.recipients)
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

// push adds a batch to the queue, if sub sees a change in it. It never waits for the subscriber.
func (sub *subscription) push(batch []change) {
	if !slices.ContainsFunc(batch, func(c change) bool { return sub.sees(&c) }) {
		return
	}
	sub.mu.Lock()
	if !sub.ended {
		sub.queue = append(sub.queue, batch)
		if sub.waiting += len(batch); len(sub.queue) > maxBatches || sub.waiting > maxWaiting {
			sub.ended, sub.queue = true, nil
		}
	}
	sub.mu.Unlock()
	sub.notify()
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

// Next implements [store.Subscription].
func (sub *subscription) Next(dst []store.Change) ([]store.Change, bool) {
	sub.mu.Lock()
	queue, live := sub.queue, !sub.ended
	sub.queue, sub.waiting = nil, 0
	sub.mu.Unlock()
	for _, batch := range queue {
		for i := range batch {
			if c := &batch[i]; sub.sees(c) {
				dst = append(dst, store.Change{Endpoint: c.endpoint, Joined: c.joined})
			}
		}
	}
	return dst, live
}
