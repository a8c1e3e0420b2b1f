package valkey

// How subscriptions get the changes of a track. All subscriptions of this tracker to a track share
// one mirror and its batches. What is read from the database changes the mirror (gather.go), and each
// difference is recorded as a change. Up to 50 ms later flush makes a batch of these changes.

import (
	"context"
	"errors"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"ntrack/announce/wire"
	"ntrack/tracker/store"
)

const (
	// maxStreamed is how many peers of all scopes a track may have when a subscription begins.
	maxStreamed = 10_000
	// maxMirrored is how many peers a mirror may have. The subscriptions of a larger track end.
	maxMirrored = 4 * maxStreamed
	// batchTime is for how long touches and changes are gathered. A track with many subscriptions and
	// many changes gathers longer: timePerRecipient for each subscription, but at most maxBatchTime.
	batchTime        = 50 * time.Millisecond
	timePerRecipient = 25 * time.Microsecond
	maxBatchTime     = 500 * time.Millisecond
	// A subscription ends if more than maxBatches batches or maxWaiting changes wait for it.
	maxBatches = 256
	maxWaiting = 2 * maxStreamed
	// subscribeTime is the longest wait of Subscribe.
	subscribeTime = 2 * callTimeout
)

var errClosed = errors.New("the store is closed")

// A track is what this tracker knows of a track that it watches. The lock of the partition guards it.
type track struct {
	part *partition
	key  string
	keys *trackKeys

	subs     []*subscription
	requests []*request // subscriptions that have not begun yet
	holds    map[netip.AddrPort]*hold

	missing    bool // of some holds missing is set
	confirmed  bool // messages about the track arrive
	mirror     mirror
	readAll    bool                   // the mirror has to be compared with all of the track
	touched    []touched              // the peers to read, in order
	touchIndex map[netip.AddrPort]int // of each peer in touched
	gatherAt   time.Time              // when to read them; zero if there are none

	birth int64 // the second in which the track began; 0 if unknown
	count changeCount

	pending      []change
	pendingIndex map[netip.AddrPort]int // of each endpoint in pending
	recorded     int64                  // how many joins and leaves there have been
	flushAt      time.Time              // when pending becomes a batch; zero if it is empty
	notBefore    time.Time              // when the next batch may be
	next         *batch                 // gets the pending changes
}

// A touched is a peer that a message named, with the kind of the message.
type touched struct {
	peer netip.AddrPort
	kind byte
}

// A change is all joins and leaves of one peer in a batch. Joins and leaves alternate.
type change struct {
	endpoint netip.AddrPort
	scope    wire.Scope
	joined   bool    // the last one is a join
	numbers  []int64 // of these joins and leaves: the first of the track has number 0
}

// A batch has the changes of 50 ms or more. The batches of a track are a list, and each subscription
// has its place in it. The last batch of the list is empty until the next flush.
type batch struct {
	number int   // of the batches before this one
	before int   // how many changes they have
	first  int64 // the number of the first join or leave that is recorded for this batch

	// flush sets these, next as the last.
	changes []change
	own     []netip.AddrPort // the endpoints in changes that are those of subscriptions
	next    atomic.Pointer[batch]

	// shared has what subscriptions in each scope see, if they began before the batch.
	shared [wire.NumScopes]atomic.Pointer[store.Batch]
}

type subscription struct {
	track   *track
	notify  func()
	place   atomic.Pointer[batch] // the batch that Next looks at first; nil after the end
	epoch   string
	self    netip.AddrPort // port 0 if the subscriber only looks
	from    int64          // the number of the first join or leave after the subscription began
	index   int32          // in track.subs; -1 before the beginning and after Close
	scope   wire.Scope
	holding bool // the subscription is counted in track.holds
}

// A request is a call of Subscribe that waits.
type request struct {
	sub   *subscription
	peers []netip.AddrPort // what the subscriber sees, and perhaps itself; others have the same slice
	size  store.Size
	state int8
	done  chan error
}

// The states of a request.
const (
	waits   = iota
	read    // the track has been read, and is not too large
	settled // done has the result
)

// Subscribe implements [store.Store]. It waits at most subscribeTime.
func (s *Store) Subscribe(ctx context.Context, key []byte, peer wire.Peer, notify func(), dst []wire.Peer) ([]wire.Peer, store.Size, store.Subscription, error) {
	if peer.Endpoint.Port() != 0 {
		if err := s.admit(ctx, key, peer.Endpoint); err != nil {
			return dst, store.Size{}, nil, err
		}
		defer s.addrs.finish(key, peer.Endpoint, 0, false) // the hold counts by itself
	}
	p := &s.watch.parts[partitionOf(key)]
	sub := &subscription{self: peer.Endpoint, scope: wire.ScopeOf(peer.Endpoint.Addr()), notify: notify, index: -1}
	r := &request{sub: sub, done: make(chan error, 1)}
	if !p.request(string(key), r) {
		return dst, store.Size{}, nil, unavailable(errClosed)
	}
	timer := time.NewTimer(subscribeTime)
	defer timer.Stop()
	var err error
	select {
	case err = <-r.done:
	case <-ctx.Done():
		err = p.abandon(r, ctx.Err())
	case <-timer.C:
		err = p.abandon(r, nil)
	}
	if err != nil {
		return dst, store.Size{}, nil, err
	}
	r.size.Total = s.total.sum()
	dst = slices.Grow(dst, len(r.peers))
	for _, e := range r.peers {
		if e != sub.self {
			dst = append(dst, wire.Peer{Endpoint: e})
		}
	}
	return dst, r.size, sub, nil
}

// request adds a request to the track with this key. It returns false if the store is closed.
func (p *partition) request(key string, r *request) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return false
	}
	t := p.tracks[key]
	if t == nil {
		t = &track{part: p, key: key, keys: p.store.keysOf([]byte(key)), next: new(batch)}
		if p.tracks == nil {
			p.tracks = make(map[string]*track)
		}
		p.tracks[key] = t
		p.store.watched.Add(1)
		p.store.watch.channels.add(t)
	}
	r.sub.track = t
	t.requests = append(t.requests, r)
	p.markDirty(t)
	return true
}

// abandon gives up a request. The request may just have succeeded; then it returns nil.
func (p *partition) abandon(r *request, cause error) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if r.state == settled {
		return <-r.done
	}
	if cause == nil {
		cause = p.lastError
		if cause == nil {
			cause = context.DeadlineExceeded
		}
	}
	p.settle(r, nil)
	if r.state, cause = settled, unavailable(cause); r.sub.holding {
		r.sub.track.unhold(r.sub)
	}
	p.tidy(r.sub.track)
	return cause
}

// settle removes a request from those that wait, with its result.
func (p *partition) settle(r *request, err error) {
	t := r.sub.track
	if i := slices.Index(t.requests, r); i >= 0 {
		t.requests = slices.Delete(t.requests, i, i+1)
	}
	r.state = settled
	r.done <- err
}

// beginAll makes subscriptions of the requests whose track has been read and whose peer is listed. Many may
// begin at the same time, so those of one scope share their list of peers.
func (t *track) beginAll() {
	var lists [wire.NumScopes][]netip.AddrPort
	for _, r := range slices.Clone(t.requests) {
		sub := r.sub
		if h := t.holds[sub.self]; r.state != read || sub.holding && (h == nil || h.lease == 0) {
			continue
		}
		if lists[sub.scope] == nil {
			lists[sub.scope] = make([]netip.AddrPort, 0, t.mirror.len())
			t.mirror.each(func(e netip.AddrPort, _ score) {
				if sub.scope.Sees(wire.ScopeOf(e.Addr())) {
					lists[sub.scope] = append(lists[sub.scope], e)
				}
			})
		}
		sub.epoch, sub.from, sub.index = t.part.epoch, t.recorded, int32(len(t.subs))
		sub.place.Store(t.next)
		t.subs = append(t.subs, sub)
		r.peers = lists[sub.scope]
		r.size.Peers = t.mirror.len()
		if r.size.Peers > 0 && t.birth > 0 {
			r.size.Age = time.Duration(max(0, t.part.store.clock.second()-t.birth)) * time.Second
		}
		t.part.settle(r, nil)
	}
}

// tidy forgets a track that nobody watches any more.
func (p *partition) tidy(t *track) {
	if len(t.subs) == 0 && len(t.requests) == 0 && p.tracks[t.key] == t {
		delete(p.tracks, t.key)
		delete(p.dirty, t)
		p.store.watched.Add(-1)
		p.store.watch.channels.remove(t)
	}
}

// record records that a peer has joined or left.
func (t *track) record(e netip.AddrPort, joined bool, now time.Time) {
	if len(t.subs) == 0 {
		return
	}
	i, found := t.pendingIndex[e]
	if !found {
		if t.pendingIndex == nil {
			t.pendingIndex = make(map[netip.AddrPort]int)
		}
		i = len(t.pending)
		t.pendingIndex[e] = i
		t.pending = append(t.pending, change{endpoint: e, scope: wire.ScopeOf(e.Addr())})
	}
	c := &t.pending[i]
	c.joined, c.numbers = joined, append(c.numbers, t.recorded)
	t.recorded++
	if t.flushAt.IsZero() {
		t.flushAt = now.Add(batchTime)
		if t.notBefore.After(t.flushAt) {
			t.flushAt = t.notBefore
		}
		t.part.dirty[t] = struct{}{}
	}
}

// flush makes a batch of the pending changes. It returns the function that notifies the subscriptions,
// for a caller that has no lock.
func (t *track) flush(now time.Time) (notify func()) {
	b := t.next
	next := &batch{number: b.number + 1, before: b.before + len(t.pending), first: t.recorded}
	b.changes, t.next = t.pending, next
	for i := range b.changes {
		if e := b.changes[i].endpoint; t.holds[e] != nil {
			b.own = append(b.own, e)
		}
	}
	t.pending, t.pendingIndex, t.flushAt = nil, nil, time.Time{}
	t.notBefore = now.Add(min(maxBatchTime, time.Duration(len(t.subs))*timePerRecipient))
	subs := slices.Clone(t.subs)
	b.next.Store(next)
	return func() {
		for _, sub := range subs {
			sub.pass(b)
		}
	}
}

// Close implements [store.Subscription]. The hold on the peer ends a moment later.
func (sub *subscription) Close() {
	t := sub.track
	p := t.part
	p.mu.Lock()
	defer p.mu.Unlock()
	if sub.index < 0 {
		return
	}
	end := len(t.subs) - 1
	t.subs[sub.index] = t.subs[end]
	t.subs[sub.index].index = sub.index
	t.subs = slices.Delete(t.subs, end, end+1)
	sub.index = -1
	sub.place.Store(nil)
	if sub.holding {
		t.unhold(sub)
	}
	p.tidy(t)
}

// Epoch implements [store.Subscription].
func (sub *subscription) Epoch() string { return sub.epoch }

// Age implements [store.Subscription].
func (sub *subscription) Age() time.Duration {
	_, text, _ := strings.Cut(sub.epoch, "-")
	began, err := strconv.ParseInt(text, 10, 64)
	if err != nil {
		return -1 // an earlier version chose the epoch
	}
	return time.Duration(max(0, sub.track.part.store.clock.second()-began)) * time.Second
}

// end ends a subscription. The caller has the lock, and calls notify without it.
func (sub *subscription) end() (notify func()) {
	if sub.place.Swap(nil) == nil {
		return func() {}
	}
	return sub.notify
}

// pass notifies the subscriber of a batch that has just been flushed. If the subscriber sees nothing
// in it and has no other batch to take, pass goes past the batch.
func (sub *subscription) pass(b *batch) {
	if sub.place.Load() == nil {
		return
	}
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

// sharesView reports whether the subscriber sees the same of a batch as all others of its scope.
func (sub *subscription) sharesView(b *batch) bool {
	return sub.from <= b.first && !slices.Contains(b.own, sub.self)
}

// seesAny reports whether the subscriber sees a change of a batch.
func (sub *subscription) seesAny(b *batch) bool {
	if sub.sharesView(b) {
		return len(sub.view(b).Changes) > 0
	}
	return slices.ContainsFunc(b.changes, func(c change) bool { return sub.sees(&c) && c.endpoint != sub.self })
}

// view returns the changes of a batch that the subscriber sees.
func (sub *subscription) view(b *batch) *store.Batch {
	shared, shares := &b.shared[sub.scope], sub.sharesView(b)
	if shares {
		if v := shared.Load(); v != nil {
			return v
		}
	}
	v := new(store.Batch)
	for i := range b.changes {
		if c := &b.changes[i]; sub.sees(c) && (shares || c.endpoint != sub.self) {
			v.Changes = append(v.Changes, store.Change{Endpoint: c.endpoint, Joined: c.joined})
		}
	}
	if shares && !shared.CompareAndSwap(nil, v) {
		return shared.Load()
	}
	return v
}

// sees reports whether c changes what the subscriber knows, unless it is about the subscriber itself: the
// subscriber sees the peer, and the number of joins and leaves since the subscription began is odd.
func (sub *subscription) sees(c *change) bool {
	odd := false
	for _, n := range c.numbers {
		if n >= sub.from {
			odd = !odd
		}
	}
	return odd && sub.scope.Sees(c.scope)
}

// A watching is what a Store needs for subscriptions.
type watching struct {
	parts    [partitions]partition
	channels channels
	// keepHolds is set by KeepHolds.
	keepHolds atomic.Bool
	working   sync.WaitGroup // the goroutines of partitions and channels
}

func (w *watching) init(s *Store) {
	for i := range w.parts {
		w.parts[i].store, w.parts[i].number, w.parts[i].wake = s, i, make(chan struct{}, 1)
	}
	w.channels.init(s)
}

// close ends all subscriptions, and closes all leases. The context of the store has ended.
func (w *watching) close() {
	for i := range w.parts {
		p := &w.parts[i]
		p.mu.Lock()
		p.closed = true
		p.mu.Unlock()
	}
	w.working.Wait()
}
