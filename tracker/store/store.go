// Package store defines [Store], the interface between a tracker and the storage of its peers, with
// its errors and its limits. A tracker without a Store uses package memory. Package storetest tests
// a store against every sentence below.
package store

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"sync"
	"time"

	"ntrack/announce/wire"
)

// A Store keeps the peers of every track. A track is the peers that are listed under one key, and
// exists while there are any.
//
// Endpoints and addresses are canonical ([wire.Canonical]), and a key has 1 to 255 bytes. A peer is
// identified by its endpoint: a second announce of the same endpoint renews the peer. An asker gets
// and counts only the peers that its scope sees ([wire.Scope.Sees]). A peer lapses when its ttl has
// passed. A store may return and count a lapsed peer for one more second.
//
// A caller sees its own changes immediately, and the changes of other callers perhaps a moment
// later. After a call the caller may overwrite the key and the slices: a store copies what it
// keeps.
//
// A call for a track of more than 1,000 peers must not delay the calls for other tracks. If most
// peers of such a track have just lapsed or are hidden from the asker, a sample may leave out some
// of the visible peers, even if the asker wants them all.
//
// Any number of goroutines may call a Store at the same time. A call that blocks returns when its
// ctx ends. A call that would exceed a limit of the store returns a [*FullError]. It leaves nothing
// behind: no track, no peer, no subscription, and nothing that counts towards a limit.
type Store interface {
	// Announce lists peer under key. The ttl begins now. If an earlier ttl of the peer ends later,
	// the peer stays listed until then. A store may shorten a ttl of more than 4 hours, but not to
	// less than 4 hours.
	//
	// It appends to dst up to want.Peers other peers of the track: all of them, or a random sample
	// without repetition, drawn anew each time. If the track has peers of both families, each
	// family gets at least a quarter of the sample, or less if it has fewer peers. If two peers
	// announce at the same time, at least one of them gets the other.
	//
	// The peer's ID replaces the ID of its last announce, and a zero ID removes it. A store may
	// forget IDs.
	//
	// The function ttl gets the size of the track with the peer in it. It is pure and fast. A store
	// may call it with a lock held, and several times, at first with an estimated Size. The ttl of
	// the peer is ttl(Result.Size).
	Announce(ctx context.Context, key []byte, peer wire.Peer, ttl func(Size) time.Duration, want Want, dst []wire.Peer) ([]wire.Peer, Result, error)

	// Look appends a sample of the track as Announce does, for an asker at this address. It does
	// not list the asker.
	Look(ctx context.Context, key []byte, asker netip.Addr, want Want, dst []wire.Peer) ([]wire.Peer, Result, error)

	// Leave removes the peer from the track immediately. It is no error if the peer is not listed.
	// Nothing remains of a track whose last peer has left or lapsed.
	Leave(ctx context.Context, key []byte, endpoint netip.AddrPort) error

	// Remove removes every peer of the track, and ends every subscription to the key, also those that
	// only look. A peer or subscriber that comes during the call may stay. It is no error if the
	// track does not exist.
	Remove(ctx context.Context, key []byte) error

	// Scrape appends to dst the track of each key in keys, in any order. The count of a track that
	// does not exist is 0. Without keys, it appends every track of which the asker sees a peer. The
	// counts may be those of different moments of the call.
	Scrape(ctx context.Context, keys []wire.Key, asker netip.Addr, dst []wire.Track) ([]wire.Track, error)

	// Subscribe appends to dst every other peer of the track, without IDs. The Size is that of the
	// track with the peer in it. The Subscription has the joins and leaves from that moment on.
	//
	// A peer whose port is 0 only looks. Any other peer is listed, as by an announce, and does not
	// lapse while a subscription holds it. After the last subscription of the peer has ended, the
	// peer stays listed until its announces have lapsed. Leave removes a peer even if subscriptions
	// hold it, and ends these subscriptions. A track of more than 10,000 peers, of all scopes, is
	// too large to stream: Subscribe returns a [*FullError] whose Stream is true.
	//
	// The store calls notify whenever Next may have something new. It may do so from any goroutine,
	// before Subscribe returns, and once more after Close. notify must not block, and must not call
	// the store.
	Subscribe(ctx context.Context, key []byte, peer wire.Peer, notify func(), dst []wire.Peer) ([]wire.Peer, Size, Subscription, error)

	// NeverBlocks is true if no method waits for anything but locks. One goroutine may then call
	// the store for many connections in turn.
	NeverBlocks() bool
}

// A HoldKeeper is a Store whose table outlives the tracker, because other trackers share it.
type HoldKeeper interface {
	Store
	// KeepHolds says that the tracker is about to end its subscriptions, while their peers are about to
	// return to another tracker. From then on a peer that a subscription has held stays listed for
	// some seconds after the subscription is closed. No subscriber gets its leave if it returns in time.
	KeepHolds()
}

// A Subscription has the changes of one track. It never waits for its subscriber: if too many
// changes wait for Next, it ends. At most 20,000 changes wait. Any goroutine may call its methods,
// but only one at a time may call Next. No method waits for anything but locks, even if the store may
// block, because one goroutine calls them for many streams.
type Subscription interface {
	// Epoch names the table in which the store keeps the track, such as the memory of one process
	// or a database that several trackers share. It has 1 to 64 bytes of printable ASCII without
	// spaces. All trackers that share a table report the same epoch. If a table may have
	// lost peers that had not lapsed, it gets a new epoch, and its subscriptions end.
	Epoch() string
	// Age is how long ago the table got its epoch. Peers that were listed before may be missing from
	// it. A negative Age means that the store does not know.
	Age() time.Duration
	// Next returns the next changes, at least one and in order, or nil if there are none yet. A
	// change comes within a second. The batch leaves out the subscriber and the peers that the
	// subscriber does not see. A lapse is a leave, and a renewal is no change. Changes of one peer
	// that undo each other within 50 milliseconds are left out, and within 500 they may be.
	//
	// live is false once the subscription has ended: because of Leave or Remove, because too many changes
	// waited, or because the store cannot continue it. Then there are no more changes, even if
	// some still waited.
	Next() (batch *Batch, live bool)
	// Close ends the subscription and its hold on the peer; a store may end the hold a moment later.
	// It must be called even if the subscription has already ended, and may be called again.
	Close()
}

// A Change is a join of a peer, or a leave if Joined is false.
type Change struct {
	Endpoint netip.AddrPort
	Joined   bool
}

// A Batch has changes that followed each other. Subscriptions that get the same changes may share
// one Batch. So its subscribers must not modify it.
type Batch struct {
	Changes []Change

	once    sync.Once
	derived any
}

// Derived returns what the first call of derive returned. So something that depends only on the
// changes is made once, and not for each subscriber. Every call must have the same derive.
func (b *Batch) Derived(derive func([]Change) any) any {
	b.once.Do(func() { b.derived = derive(b.Changes) })
	return b.derived
}

// A Want says which peers an asker wants.
type Want struct {
	Peers int // at most this many
	// IDs asks for the IDs of the peers, which take time to read. If it is false, they are zero.
	IDs bool
}

// A Result describes a track after an announce or a look.
type Result struct {
	// Count is how many peers of the track the asker sees, including itself if it is listed.
	Count int
	Size  Size
}

// A Size is the size of a track and of its store. Peers of all scopes count. It may be up to a
// second old.
type Size struct {
	Peers int // of the track, at least 1 after an announce
	// Total is the number of peers in all tracks. It may be an estimate.
	Total int
	// Age is the time since the track got its first peer, in whole seconds. It is 0 if the track
	// does not exist.
	Age time.Duration
}

// ErrUnavailable is the error of a call if the store cannot be reached or does not answer now. The call
// may have had its effect. The same call may succeed later.
var ErrUnavailable = errors.New("the store is not available")

// What of a FullError, for the limits that many stores have.
const (
	FullMemory       = "memory"
	FullPeersPerAddr = "peers of this address"
)

// A FullError says which limit of a store refuses an announce or a subscription.
type FullError struct {
	What   string // what there are too many of, such as "peers of this address", or FullMemory
	Max    int    // the limit; FullMemory has none
	Stream bool   // only an event stream is refused; an announce or a look may succeed
}

func (e *FullError) Error() string {
	if e.What == FullMemory {
		return "the tracker's memory is full"
	}
	return fmt.Sprintf("too many %s: at most %d", e.What, e.Max)
}

// Limits are the most that a store holds; 0 is no limit. A store refuses a new peer that would
// exceed a limit, with a [*FullError]. It removes no peer to make room, and never refuses a
// renewal. A peer that has lapsed counts for up to a second.
type Limits struct {
	// MaxBytes limits the memory that keys and peers take, in bytes as the store counts them. A store
	// refuses new keys earlier than new peers of keys that exist, so that many fresh keys cannot keep
	// peers out of the others.
	MaxBytes int64
	// MaxPerAddr limits the peers of one IPv4 address or of one IPv6 /64, in all tracks together. A
	// /64 is what a provider gives one customer. A value above 65535 counts as 65535.
	MaxPerAddr int
}

// Stats are the numbers of a store. A store that has them has a method Stats, which returns them
// without delaying other calls.
type Stats struct {
	Keys, Peers int // a lapsed peer may count for another second
	Bytes       int // the memory of the table, in use and free; at most Limits.MaxBytes
	Limits      Limits
}
