package valkey

// How subscriptions get the changes of a track. All subscriptions of this tracker to a track share
// one mirror and one feed. What is read from the database changes the mirror (gather.go), and each
// difference is recorded as a change. Up to 50 ms later flush makes a batch of these changes (package feed).

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
	"ntrack/tracker/store/feed"
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

	feed      feed.Feed
	flushAt   time.Time // when the changes in feed become a batch; zero if there are none
	notBefore time.Time // when the next batch may be
}

// A touched is a peer that a message named, with the kind of the message.
type touched struct {
	peer netip.AddrPort
	kind byte
}

type subscription struct {
	feed.Reader // its Self has port 0 if the subscriber only looks
	track       *track
	epoch       string
	index       int32 // in track.subs; -1 before the beginning and after Close
	holding     bool  // the subscription is counted in track.holds
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
	sub := &subscription{Reader: feed.Reader{Self: peer.Endpoint, Notify: notify}, index: -1}
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
		if e != sub.Self {
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
		t = &track{part: p, key: key, keys: p.store.keysOf([]byte(key))}
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
		if h := t.holds[sub.Self]; r.state != read || sub.Self.Port() != 0 && (!sub.holding || h.lease == 0) {
			continue
		}
		sub.Begin(&t.feed)
		scope := sub.Scope()
		if lists[scope] == nil {
			lists[scope] = make([]netip.AddrPort, 0, t.mirror.len())
			t.mirror.each(func(e netip.AddrPort, _ score) {
				if scope.Sees(wire.ScopeOf(e.Addr())) {
					lists[scope] = append(lists[scope], e)
				}
			})
		}
		sub.epoch, sub.index = t.part.epoch, int32(len(t.subs))
		t.subs = append(t.subs, sub)
		r.peers = lists[scope]
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
	t.feed.Record(e, joined)
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
	b := t.feed.Flush(func(e netip.AddrPort) bool { return t.holds[e] != nil })
	t.flushAt = time.Time{}
	t.notBefore = now.Add(min(maxBatchTime, time.Duration(len(t.subs))*timePerRecipient))
	subs := slices.Clone(t.subs)
	return func() {
		for _, sub := range subs {
			sub.Pass(b)
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
	sub.End()
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
	if !sub.End() {
		return func() {}
	}
	return sub.Notify
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
