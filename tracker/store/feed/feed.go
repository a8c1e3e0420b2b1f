// Package feed passes the changes of a track on to its subscriptions. It is for stores: a [Feed] belongs to
// a track, and each subscription has a [Reader].
//
// A Feed gathers changes until the store calls Flush, which makes one [Batch] of them. The batches of a
// track are a list, and each Reader has its place in it. So a batch is in memory once, however many
// readers wait for it, and only until all of them have gone past it. When to flush is up to the store.
package feed

import (
	"net/netip"
	"slices"
	"sync/atomic"

	"ntrack/announce/wire"
	"ntrack/tracker/store"
)

const (
	// MaxWaiting is how many changes may wait for a Reader before it ends. The client then subscribes
	// again, and gets a list of the peers instead.
	MaxWaiting = 20_000
	// maxBatches is how many batches may wait for a Reader before it ends.
	maxBatches = 256
)

// A Feed has the changes of a track that are not in a batch yet. The zero Feed is ready for use. It is
// not safe for concurrent use: a store calls its methods with the lock of the track.
type Feed struct {
	pending  []change
	index    map[netip.AddrPort]int // of each endpoint in pending
	recorded int64                  // how many joins and leaves there have been
	last     *Batch                 // gets the pending changes; nil before the first use
}

// A change is all joins and leaves of one peer in a batch. Joins and leaves alternate.
type change struct {
	endpoint netip.AddrPort
	scope    wire.Scope
	joined   bool    // the last one is a join
	numbers  []int64 // of these joins and leaves: the first one of the Feed has number 0
}

// A Batch has the changes between two calls of Flush. The last batch of a list is empty until the next
// call.
type Batch struct {
	number int   // of the batches before this one
	before int   // how many changes they have
	first  int64 // the number of the first join or leave that is recorded for this batch

	// Flush sets these, next as the last.
	changes []change
	own     []netip.AddrPort // the endpoints in changes that are those of readers
	next    atomic.Pointer[Batch]

	// shared has what readers in each scope see, if they began before the batch.
	shared [wire.NumScopes]atomic.Pointer[store.Batch]
}

// Last returns the batch at the end of the list, which the next Flush fills.
func (f *Feed) Last() *Batch {
	if f.last == nil {
		f.last = new(Batch)
	}
	return f.last
}

// Pending returns how many peers have changes that are not in a batch yet.
func (f *Feed) Pending() int { return len(f.pending) }

// Has reports whether this peer has such a change.
func (f *Feed) Has(e netip.AddrPort) bool { _, found := f.index[e]; return found }

// Record records that a peer has joined or left.
func (f *Feed) Record(e netip.AddrPort, joined bool) {
	i, found := f.index[e]
	if !found {
		if f.index == nil {
			f.index = make(map[netip.AddrPort]int)
		}
		i = len(f.pending)
		f.index[e] = i
		f.pending = append(f.pending, change{endpoint: e, scope: wire.ScopeOf(e.Addr())})
	}
	c := &f.pending[i]
	c.joined, c.numbers = joined, append(c.numbers, f.recorded)
	f.recorded++
}

// Drop forgets the changes that are not in a batch yet. All readers must have ended.
func (f *Feed) Drop() { f.pending, f.index = nil, nil }

// Flush makes a batch of the changes, and returns it. The caller then calls Pass of every Reader, without
// a lock. isReader reports whether a peer is that of a Reader, which does not see its own changes. It may
// be nil if no change is about a peer that has a Reader.
func (f *Feed) Flush(isReader func(netip.AddrPort) bool) *Batch {
	b := f.Last()
	next := &Batch{number: b.number + 1, before: b.before + len(f.pending), first: f.recorded}
	b.changes, f.last = f.pending, next
	f.pending, f.index = nil, nil
	if isReader != nil {
		for i := range b.changes {
			if e := b.changes[i].endpoint; isReader(e) {
				b.own = append(b.own, e)
			}
		}
	}
	b.next.Store(next)
	return b
}

// Next returns the batch after b, or nil if b is the last one.
func (b *Batch) Next() *Batch { return b.next.Load() }

// IsBefore reports whether b comes before other in the list.
func (b *Batch) IsBefore(other *Batch) bool { return b.number < other.number }

// A Reader takes the changes of a Feed for one subscription. Self, Notify and, by Begin, its place are
// set before its first use. Only one goroutine at a time may call Next. The other methods may be called
// at any time.
type Reader struct {
	// Self is the subscriber, which does not see its own changes. Its address decides which peers it
	// sees.
	Self netip.AddrPort
	// Notify is called when Next may have something new. It must not block.
	Notify func()

	place atomic.Pointer[Batch] // the batch that Next looks at first; nil after the end
	from  int64                 // the number of the first join or leave after the Reader began
	scope wire.Scope
}

// Begin makes the Reader take every change that is recorded after this call.
func (r *Reader) Begin(f *Feed) {
	r.from, r.scope = f.recorded, wire.ScopeOf(r.Self.Addr())
	r.place.Store(f.Last())
}

// End ends the Reader. It returns false if the Reader has not begun, or has ended already.
func (r *Reader) End() bool { return r.place.Swap(nil) != nil }

// Place returns the batch that Next looks at first, or nil after the end.
func (r *Reader) Place() *Batch { return r.place.Load() }

// Scope returns the scope of the subscriber.
func (r *Reader) Scope() wire.Scope { return r.scope }

// Pass notifies the subscriber of a batch that Flush has just returned. If the subscriber sees nothing
// in it and has no other batch to take, Pass goes past the batch. It ends a Reader for which too much
// waits. It never waits for the subscriber.
func (r *Reader) Pass(b *Batch) {
	if r.place.Load() == nil {
		return
	}
	next, sees := b.next.Load(), r.seesAny(b)
	if !sees && r.place.CompareAndSwap(b, next) {
		return
	}
	place := r.place.Load()
	if place == nil {
		return
	}
	full := next.number-place.number > maxBatches || next.before-place.before > MaxWaiting
	if full {
		r.place.Store(nil)
	}
	if sees || full {
		r.Notify()
	}
}

// Next is that of a [store.Subscription].
func (r *Reader) Next() (batch *store.Batch, live bool) {
	for {
		b := r.place.Load()
		if b == nil {
			return nil, false
		}
		next := b.next.Load()
		if next == nil {
			return nil, true
		}
		// The place may change at the same time: Pass ends the Reader, or goes past b.
		if r.place.CompareAndSwap(b, next) && r.seesAny(b) {
			return r.view(b), true
		}
	}
}

// sharesView reports whether the subscriber sees the same of a batch as all others of its scope. It
// does, unless it began during the batch or is itself in it.
func (r *Reader) sharesView(b *Batch) bool {
	return r.from <= b.first && !slices.Contains(b.own, r.Self)
}

// seesAny reports whether the subscriber sees a change of a batch.
func (r *Reader) seesAny(b *Batch) bool {
	if r.sharesView(b) {
		return len(r.view(b).Changes) > 0
	}
	return slices.ContainsFunc(b.changes, func(c change) bool { return r.sees(&c) && c.endpoint != r.Self })
}

// view returns the changes of a batch that the subscriber sees. Readers that share a view get the same
// one.
func (r *Reader) view(b *Batch) *store.Batch {
	shared, shares := &b.shared[r.scope], r.sharesView(b)
	if shares {
		if v := shared.Load(); v != nil {
			return v
		}
	}
	v := new(store.Batch)
	for i := range b.changes {
		if c := &b.changes[i]; r.sees(c) && (shares || c.endpoint != r.Self) {
			v.Changes = append(v.Changes, store.Change{Endpoint: c.endpoint, Joined: c.joined})
		}
	}
	if shares && !shared.CompareAndSwap(nil, v) {
		return shared.Load()
	}
	return v
}

// sees reports whether c changes what the subscriber knows, unless it is about the subscriber itself. The
// subscriber must see the peer. The number of joins and leaves since the Reader began must be odd, because
// a join and a leave undo each other.
func (r *Reader) sees(c *change) bool {
	odd := false
	for _, n := range c.numbers {
		if n >= r.from {
			odd = !odd
		}
	}
	return odd && r.scope.Sees(c.scope)
}
