package memory

import (
	"context"
	"net/netip"
	"sync"
	"time"

	"ntrack/announce/wire"
	"ntrack/tracker/store"
)

// maxStreamed is how many peers a track may have, hidden ones included, for somebody to subscribe.
const maxStreamed = 10_000

const (
	// burst is how long changes are gathered before the subscribers are told.
	burst = 50 * time.Millisecond
	// A subscriber who has not taken so many batches, or so many changes, is too slow: the list
	// of everybody, from which he starts again, is shorter.
	maxBatches = 256
	maxBehind  = 2 * maxStreamed
	// regain is for how many seconds a peer stays whose stream ended because the tracker stood
	// still: clients try again every 15 seconds at least, and wait 10 for an answer.
	regain = 30
)

// A topic is a key that somebody subscribes to, for as long as he does, whether there is a track or
// not. Its shard's lock guards it.
type topic struct {
	s     *shard
	key   string
	subs  []*subscription
	holds map[netip.AddrPort]hold

	// log has the changes since the last flush, in order, and seen where in it the last one of
	// an endpoint is. first numbers log[0] among all there have been.
	log   []change
	seen  map[netip.AddrPort]int
	first int
	armed bool            // a flush will come, or is under way
	fan   []*subscription // the flush's own
}

// A change is a peer that was put into, or taken out of, the table: of one endpoint they alternate.
type change struct {
	endpoint netip.AddrPort
	scope    wire.Scope
	joined   bool
	last     bool // of its endpoint in this log
	before   int  // where in the log the one before of this endpoint is; -1 for nowhere
}

// A batch is a log that was flushed. Its subscribers share it, so nothing in it changes.
type batch struct {
	first   int
	changes []change
}

// net says whether the changes of the endpoint whose last one is at i come to something, for who
// has seen everything before from: an even number of them comes to nothing.
func (b *batch) net(i, from int) bool {
	odd := false
	for ; i >= 0 && b.first+i >= from; i = b.changes[i].before {
		odd = !odd
	}
	return odd
}

// A hold is why a peer does not lapse: there are streams of his.
type hold struct {
	first *subscription // the others follow by also
	until int64         // the second that his last announce, if any, holds him to
}

type subscription struct {
	t     *topic
	self  netip.AddrPort // port 0: only looks
	scope wire.Scope
	place int // in topic.subs; -1 when closed
	from  int // the first change that is news
	holds bool
	also  *subscription // another that holds the same peer
	wake  func()

	mu     sync.Mutex
	queue  []*batch
	behind int // changes in the queue
	ended  bool
}

// Subscribe implements [Store].
func (m *Store) Subscribe(_ context.Context, key []byte, peer wire.Peer, wake func(), dst []wire.Peer) ([]wire.Peer, store.Subscription, error) {
	s, hash := m.find(key)
	s.mu.Lock()
	defer s.mu.Unlock()
	since := m.clock.now()
	now := stampOf(int64(since / time.Second))
	h := s.lookup(key, hash)
	if h != 0 {
		t := s.tracks.one(h)
		if s.len(t) > maxStreamed {
			return dst, nil, &store.FullError{What: "peers of this key for an event stream", Max: maxStreamed, Stream: true}
		}
		if t.soon.until(now) <= 0 {
			h = s.expire(h, now) // all of it, so that nobody hears of the leave of one he was not told of
		}
	}
	sub := &subscription{self: peer.Endpoint, scope: wire.ScopeOf(peer.Endpoint.Addr()), holds: peer.Endpoint.Port() != 0, wake: wake}
	var self record
	if sub.holds {
		var buf [5]uint32
		self = pack(&buf, peer.Endpoint)
		fam := familyOf(peer.Endpoint.Addr())
		var v table
		i, found := 0, false
		if h != 0 {
			v = s.table(s.tracks.one(h), fam)
			i, found = v.find(self)
		}
		if !found {
			if err := s.admit(h, peer.Endpoint.Addr()); err != nil {
				return dst, nil, err
			}
			if h == 0 {
				h = s.add(key, hash, since)
			}
			v, i = s.insert(s.tracks.one(h), self, fam, sub.scope)
			m.wake()
		}
		sub.t = s.topicOf(key)
		sub.t.hold(sub, v.at(i).stamp(), now)
		v.at(i).setStamp(held)
		s.label(&v, i, peer.ID)
	} else {
		sub.t = s.topicOf(key)
	}
	sub.t.add(sub)
	if h == 0 {
		return dst, sub, nil
	}
	for fam := range 2 {
		v := s.table(s.tracks.one(h), fam)
		for i := range v.cap {
			r := v.at(i)
			if r.empty() || len(r) == len(self) && r.same(self) || !sub.scope.Sees(wire.ScopeOf(r.addr())) {
				continue
			}
			dst = append(dst, wire.Peer{Endpoint: r.endpoint()})
		}
	}
	return dst, sub, nil
}

// topicOf makes the topic where there is none.
func (s *shard) topicOf(key []byte) *topic {
	t := s.topics[string(key)]
	if t == nil {
		t = &topic{s: s, key: string(key)}
		if s.topics == nil {
			s.topics = make(map[string]*topic)
		}
		s.topics[t.key] = t
	}
	return t
}

// changed tells the topic, if the track has one, of a peer that was put in or taken out.
func (s *shard) changed(t *track, r record, joined bool) {
	if len(s.topics) == 0 {
		return
	}
	if tp := s.topics[string(s.keyOf(t))]; tp != nil {
		tp.note(r.endpoint(), joined)
	}
}

func (t *topic) note(e netip.AddrPort, joined bool) {
	before, ok := t.seen[e]
	if !ok {
		before = -1
	} else {
		t.log[before].last = false
	}
	if t.seen == nil {
		t.seen = make(map[netip.AddrPort]int)
	}
	t.seen[e] = len(t.log)
	t.log = append(t.log, change{e, wire.ScopeOf(e.Addr()), joined, true, before})
	t.arm()
}

// track is 0 where there is none.
func (t *topic) track() handle {
	key := []byte(t.key)
	_, hash := t.s.m.find(key)
	return t.s.lookup(key, hash)
}

func (t *topic) arm() {
	if !t.armed {
		t.armed = true
		time.AfterFunc(burst, t.flush)
	}
}

// flush hands the log to the subscribers. The shard is locked for no longer than it takes to copy
// who they are.
func (t *topic) flush() {
	t.s.mu.Lock()
	b := &batch{t.first, t.log}
	t.first += len(t.log)
	t.log, t.seen = nil, nil
	t.fan = append(t.fan[:0], t.subs...)
	t.s.mu.Unlock()
	for _, sub := range t.fan {
		sub.push(b)
	}
	clear(t.fan)
	t.s.mu.Lock()
	defer t.s.mu.Unlock()
	if t.armed = false; len(t.log) > 0 {
		t.arm()
	}
}

func (t *topic) add(sub *subscription) {
	sub.place, sub.from = len(t.subs), t.first+len(t.log)
	t.subs = append(t.subs, sub)
}

// hold counts a subscription among those that keep its peer, who was listed with this stamp; 0 for
// not at all.
func (t *topic) hold(sub *subscription, old, now stamp) {
	if t.holds == nil {
		t.holds = make(map[netip.AddrPort]hold)
	}
	h, ok := t.holds[sub.self]
	if !ok && old != 0 {
		h.until = t.s.m.second() + int64(old.until(now))
	}
	sub.also, h.first = h.first, sub
	t.holds[sub.self] = h
}

// keep notes that an announce holds a peer to a second, beside his streams.
func (t *topic) keep(e netip.AddrPort, until int64) {
	h := t.holds[e]
	h.until = max(h.until, until)
	t.holds[e] = h
}

// release ends every hold on a peer, and the subscriptions with them.
func (t *topic) release(e netip.AddrPort) {
	for sub := t.holds[e].first; sub != nil; sub = sub.also {
		sub.holds = false
		sub.end()
	}
	delete(t.holds, e)
}

// Close implements [Subscription].
func (sub *subscription) Close() {
	t := sub.t
	s := t.s
	s.mu.Lock()
	defer s.mu.Unlock()
	if sub.place < 0 {
		return
	}
	end := len(t.subs) - 1
	t.subs[sub.place] = t.subs[end]
	t.subs[sub.place].place = sub.place
	t.subs[end] = nil
	t.subs = t.subs[:end]
	sub.place = -1
	if sub.holds {
		t.unhold(sub)
	}
	if len(t.subs) == 0 {
		delete(s.topics, t.key)
	}
}

// unhold takes away one hold. After the last the peer is listed for as long as his announce holds.
func (t *topic) unhold(sub *subscription) {
	h := t.holds[sub.self]
	at := &h.first
	for *at != sub {
		at = &(*at).also
	}
	*at = sub.also
	if h.first != nil {
		t.holds[sub.self] = h
		return
	}
	delete(t.holds, sub.self)
	s, handle := t.s, t.track()
	tr := s.tracks.one(handle)
	v := s.table(tr, familyOf(sub.self.Addr()))
	var buf [5]uint32
	i, _ := v.find(pack(&buf, sub.self))
	now := s.m.second()
	if s.m.clock.settling() {
		h.until = max(h.until, now+regain)
	}
	until := stampOf(h.until)
	if h.until <= now {
		s.remove(tr, &v, i)
		s.tidy(handle)
		return
	}
	v.at(i).setStamp(until)
	s.lapses(handle, until, stampOf(now))
}

// Epoch implements [store.Subscription]: a table in memory lives as long as its process.
func (sub *subscription) Epoch() string { return sub.t.s.m.epoch }

// push never waits for the subscriber.
func (sub *subscription) push(b *batch) {
	for i := range b.changes {
		if sub.sees(b, i) {
			sub.mu.Lock()
			if !sub.ended {
				sub.queue = append(sub.queue, b)
				if sub.behind += len(b.changes); len(sub.queue) > maxBatches || sub.behind > maxBehind {
					sub.ended, sub.queue = true, nil
				}
			}
			sub.mu.Unlock()
			sub.wake()
			return
		}
	}
}

// sees says whether the change at i is news to the subscriber. It is never his own: as long as his
// subscription lasts, he neither joins nor leaves.
func (sub *subscription) sees(b *batch, i int) bool {
	c := &b.changes[i]
	return c.last && sub.scope.Sees(c.scope) && b.net(i, sub.from)
}

func (sub *subscription) end() {
	sub.mu.Lock()
	sub.ended = true
	sub.mu.Unlock()
	sub.wake()
}

// Next implements [Subscription].
func (sub *subscription) Next(dst []store.Change) ([]store.Change, bool) {
	sub.mu.Lock()
	queue, live := sub.queue, !sub.ended
	sub.queue, sub.behind = nil, 0
	sub.mu.Unlock()
	for _, b := range queue {
		for i := range b.changes {
			if sub.sees(b, i) {
				dst = append(dst, store.Change{Endpoint: b.changes[i].endpoint, Joined: b.changes[i].joined})
			}
		}
	}
	return dst, live
}
