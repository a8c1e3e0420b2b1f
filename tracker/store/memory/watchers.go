package memory

// How subscriptions are notified: a change is recorded in the batch of its key, and the batch goes
// to the queue of each subscription 50 ms later.

import (
	"context"
	"math"
	"net/netip"
	"slices"
	"sync"
	"time"

	"ntrack/announce/wire"
	"ntrack/tracker/store"
)

const (
	// maxStreamed is how many peers, of all scopes, a track may have when a subscription begins.
	maxStreamed = 10_000
	// batchTime is how long changes are gathered before the subscriptions get them.
	batchTime = 50 * time.Millisecond
	// A subscription ends when more batches or changes than that wait for it. Its subscriber then
	// reads the list of all peers again, which is shorter.
	maxBatches = 256
	maxWaiting = 2 * maxStreamed
	// A peer whose stream ended because the process stood still stays listed for regain. Its client
	// tries again at least every 15 seconds, and waits 10 for a reply.
	regain = 30 * time.Second
)

// The watchers of a key are its subscriptions, and the changes that these do not have yet. The key
// need not have a track. The lock of the shard guards all but flushing and recipients.
type watchers struct {
	s     *shard
	key   string
	subs  []*subscription
	holds map[netip.AddrPort]hold

	batch     []change               // since the last flush
	place     map[netip.AddrPort]int // of each endpoint in batch
	recorded  int64                  // how many changes there have been
	scheduled bool                   // a timer will call flush

	flushing   sync.Mutex      // so that each subscription has the batches in order
	recipients []*subscription // of a batch; only flush uses it
}

// A change is what one peer has done within a batch: joins and leaves in turn.
type change struct {
	endpoint netip.AddrPort
	scope    wire.Scope
	joined   bool    // whether the last of these is a join
	numbers  []int64 // of its joins and leaves: all changes of the key are numbered
}

// A hold keeps a peer from lapsing.
type hold struct {
	count int           // of subscriptions that hold the peer
	until time.Duration // when its last announce lapses, in whole seconds; 0 without one
}

type subscription struct {
	w      *watchers
	self   netip.AddrPort // if its port is 0, it only looks
	scope  wire.Scope
	place  int   // in watchers.subs; -1 once closed
	from   int64 // the number of the first change after it began
	holds  bool
	notify func()

	mu      sync.Mutex
	queue   [][]change
	waiting int // changes in the queue
	ended   bool
}

// Subscribe implements [store.Store].
func (m *Store) Subscribe(_ context.Context, key []byte, peer wire.Peer, notify func(), dst []wire.Peer) ([]wire.Peer, store.Subscription, error) {
	s, hash := m.shardOf(key)
	s.mu.Lock()
	defer s.mu.Unlock()
	now := m.clock.now()
	second := expiryAt(now)
	h := s.lookup(key, hash)
	if h != 0 {
		t := s.tracks.one(h)
		if s.trackLen(t) > maxStreamed {
			return dst, nil, &store.FullError{What: "peers of this key for an event stream", Max: maxStreamed, Stream: true}
		}
		if t.due.after(second) <= 0 {
			// All lapsed peers go now: the subscription must not have a leave without a join.
			h = s.expire(h, &position{}, math.MaxInt, second)
		}
	}
	sub := &subscription{self: peer.Endpoint, scope: wire.ScopeOf(peer.Endpoint.Addr()), holds: peer.Endpoint.Port() != 0, notify: notify}
	var self packed
	if sub.holds {
		var buf [5]uint32
		self = pack(&buf, peer.Endpoint)
		var v table
		var i int
		var err error
		if h, v, i, err = s.enter(h, key, hash, self, now); err != nil {
			return dst, nil, err
		}
		s.watch(key, sub)
		sub.w.hold(sub.self, v.at(i).expiry(), now)
		v.at(i).setExpiry(held)
		s.setID(&v, i, peer.ID)
	} else {
		s.watch(key, sub)
	}
	if h == 0 {
		return dst, sub, nil
	}
	for fam := range widths {
		v := s.table(s.tracks.one(h), fam)
		for i := range v.cap {
			p := v.at(i)
			if p.empty() || len(p) == len(self) && p.same(self) || !sub.scope.Sees(wire.ScopeOf(p.addr())) {
				continue
			}
			dst = append(dst, wire.Peer{Endpoint: p.endpoint()})
		}
	}
	return dst, sub, nil
}

// watch adds a subscription to the watchers of a key.
func (s *shard) watch(key []byte, sub *subscription) {
	w := s.watched[string(key)]
	if w == nil {
		w = &watchers{s: s, key: string(key)}
		if s.watched == nil {
			s.watched = make(map[string]*watchers)
		}
		s.watched[w.key] = w
	}
	sub.w, sub.place, sub.from = w, len(w.subs), w.recorded
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
	i, found := w.place[e]
	if !found {
		if w.place == nil {
			w.place = make(map[netip.AddrPort]int)
		}
		i = len(w.batch)
		w.place[e] = i
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

// flush hands the batch to the subscriptions. It locks the shard only to take the batch and to copy
// the list of recipients.
func (w *watchers) flush() {
	w.flushing.Lock()
	defer w.flushing.Unlock()
	w.s.mu.Lock()
	batch := w.batch
	w.batch, w.place, w.scheduled = nil, nil, false
	w.recipients = append(w.recipients[:0], w.subs...)
	w.s.mu.Unlock()
	for _, sub := range w.recipients {
		sub.push(batch)
	}
	clear(w.recipients)
}

// hold adds a hold on a peer. old is the expiry of the peer in the table, 0 if it has just joined.
func (w *watchers) hold(e netip.AddrPort, old expiry, now time.Duration) {
	h := w.holds[e]
	if h.count == 0 && old != 0 {
		h.until = now.Truncate(time.Second) + time.Duration(old.after(expiryAt(now)))*time.Second
	}
	h.count++
	if w.holds == nil {
		w.holds = make(map[netip.AddrPort]hold)
	}
	w.holds[e] = h
}

// keep notes until when an announce lists a held peer.
func (w *watchers) keep(e netip.AddrPort, until time.Duration) {
	h := w.holds[e]
	h.until = max(h.until, until)
	w.holds[e] = h
}

// release removes every hold on a peer, and ends the subscriptions that had one.
func (w *watchers) release(e netip.AddrPort) {
	delete(w.holds, e)
	for _, sub := range w.subs {
		if sub.holds && sub.self == e {
			sub.holds = false
			sub.mu.Lock()
			sub.ended = true
			sub.mu.Unlock()
			sub.notify()
		}
	}
}

// unhold removes one hold on a peer. After the last one the peer stays listed until its announce
// lapses.
func (w *watchers) unhold(e netip.AddrPort) {
	h := w.holds[e]
	if h.count--; h.count > 0 {
		w.holds[e] = h
		return
	}
	delete(w.holds, e)
	s := w.s
	now := s.m.clock.now()
	if s.m.clock.settling() {
		h.until = max(h.until, now+regain)
	}
	key := []byte(w.key)
	_, hash := s.m.shardOf(key)
	track := s.lookup(key, hash)
	t := s.tracks.one(track)
	var buf [5]uint32
	p := pack(&buf, e)
	v := s.table(t, p.family())
	i, _ := v.find(p)
	if h.until <= now {
		s.remove(t, &v, i)
		s.tidy(track)
		return
	}
	v.at(i).setExpiry(expiryAt(h.until))
	s.dueAt(track, expiryAt(h.until), expiryAt(now))
}

// Close implements [store.Subscription].
func (sub *subscription) Close() {
	w := sub.w
	w.s.mu.Lock()
	defer w.s.mu.Unlock()
	if sub.place < 0 {
		return
	}
	end := len(w.subs) - 1
	w.subs[sub.place] = w.subs[end]
	w.subs[sub.place].place = sub.place
	w.subs = slices.Delete(w.subs, end, end+1)
	sub.place = -1
	if sub.holds {
		w.unhold(sub.self)
	}
	if len(w.subs) == 0 {
		delete(w.s.watched, w.key)
	}
}

// Epoch implements [store.Subscription]: the table lives as long as the store.
func (sub *subscription) Epoch() string { return sub.w.s.m.epoch }

// push queues a batch, if the subscriber sees any of it. It never waits for the subscriber.
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

// sees reports whether a change is news to the subscriber. It must see the peer, and the peer must
// have changed an odd number of times since the subscription began. The peer is never the
// subscriber itself, which neither joins nor leaves while its subscription lasts.
func (sub *subscription) sees(c *change) bool {
	news := false
	for _, n := range c.numbers {
		news = news != (n >= sub.from)
	}
	return news && sub.scope.Sees(c.scope)
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
