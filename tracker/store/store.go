// Package store is what a tracker needs of the place that keeps its peers: the interface [Store],
// its errors and its limits. Package memory has the store of a tracker that is given none. Package
// storetest tests a store against every sentence below.
package store

import (
	"context"
	"fmt"
	"net/netip"
	"time"

	"ntrack/announce/wire"
)

// A Store keeps the peers of every track. It has one method for each thing a user does.
//
// Endpoints and addresses are canonical ([wire.Canonical]); a key has 1 to 255 bytes. A peer is its
// endpoint: a second announce of it renews the peer. An asker is given and counts only the peers
// that its scope sees ([wire.Scope.Sees]). A peer that has lapsed is neither given nor counted for
// more than a second.
//
// A caller sees its own changes at once. It may see those of others a moment later. A caller may
// overwrite keys and slices after the call: a store copies what it keeps.
//
// A track above 1,000 peers must not hold up calls for other tracks. If most of its peers have just
// lapsed or are hidden from the asker, a sample may miss some of the others.
//
// Any number of goroutines may call a Store. A call that waits returns when ctx ends. A store over
// one of its limits refuses with a [*FullError]. A refusal leaves nothing behind: no track, no
// peer, nothing that counts towards a limit, and no subscription.
type Store interface {
	// Announce lists peer under key for a ttl from now, or for as long as it already was if that
	// is longer. A store may shorten a ttl of more than 4 hours, but not to less than that.
	//
	// It appends to dst up to want.Peers other peers of the track: all of them, or a random sample
	// without repetition, drawn anew each time. If the track has peers of both families, each
	// family gets at least a quarter of the sample, or less if it has fewer peers. Of two peers
	// that announce at once, at least one finds the other listed.
	//
	// The peer's ID replaces the one that it gave before, and a zero ID removes it. A store may
	// forget IDs.
	//
	// The ttl depends on the size of the track with the peer in it. The function is pure and quick.
	// A store may call it with a lock held, and several times, with a guess first. The peer is
	// listed for its value at the Size in the Result.
	Announce(ctx context.Context, key []byte, peer wire.Peer, ttl func(Size) time.Duration, want Want, dst []wire.Peer) ([]wire.Peer, Result, error)

	// Look samples the track as Announce does, for an asker at this address that does not join.
	Look(ctx context.Context, key []byte, asker netip.Addr, want Want, dst []wire.Peer) ([]wire.Peer, Result, error)

	// Leave removes the peer from the track at once. It is no error if the peer is not there. A
	// track whose last peer is gone leaves nothing behind.
	Leave(ctx context.Context, key []byte, endpoint netip.AddrPort) error

	// Scrape appends to dst the count of each of keys, in any order; it is 0 for a track that does
	// not exist. Without keys it appends every track of which the asker sees a peer. It may show
	// tracks as they were at different moments of the call.
	Scrape(ctx context.Context, keys []wire.Key, asker netip.Addr, dst []wire.Track) ([]wire.Track, error)

	// Subscribe appends to dst every other peer of the track, without IDs, and reports joins and
	// leaves to the Subscription from that moment on. If the peer's port is not 0, the peer is
	// listed, as by an announce, and does not lapse while a subscription holds it. After the last
	// of these has ended, the peer stays listed until its last announce lapses. A peer whose port
	// is 0 only looks. Leave removes a peer even if subscriptions hold it, and ends them. A track
	// above 10,000 peers of all scopes is too large to stream and is refused with a [*FullError]
	// that says Stream.
	//
	// The store calls notify whenever Next may have something new, from any goroutine, perhaps
	// before Subscribe returns or once more after Close. notify must not block or call the store.
	Subscribe(ctx context.Context, key []byte, peer wire.Peer, notify func(), dst []wire.Peer) ([]wire.Peer, Subscription, error)

	// Prompt reports whether no method ever waits for anything but a lock. One goroutine may then
	// call the store for many connections in turn.
	Prompt() bool
}

// A Subscription has the changes of one track. It never waits for its subscriber: it ends when more
// than some thousand changes wait. Any goroutine may call its methods, but only one at a time may
// call Next.
type Subscription interface {
	// Epoch is a name for the table that the track is in, in at most 64 bytes of printable ASCII
	// without "-". All trackers that share a table have the same. The name changes when the store
	// may have lost peers that had not lapsed, and that ends the subscription.
	Epoch() string
	// Next appends to dst, in order, what has changed since the last call. It leaves out peers that
	// the subscriber does not see, and the subscriber itself. It has each change within a second. A
	// lapse is a leave, and a renewal is no change. Changes of one peer that undo each other within
	// 50 milliseconds are left out. live is false when the subscription has ended: because of
	// Leave, because too many changes waited, or for a reason of the store.
	Next(dst []Change) (changes []Change, live bool)
	// Close ends the subscription and its hold on the peer. It must be called, even if the
	// subscription has ended, and may be called again.
	Close()
}

// A Change is a join, or else a leave, of a peer.
type Change struct {
	Endpoint netip.AddrPort
	Joined   bool
}

// A Want says which peers an asker wants.
type Want struct {
	Peers int // at most
	// IDs asks for the peers' IDs, which take time to read. Without it they are zero.
	IDs bool
}

// A Result describes a track after an announce, or at a look.
type Result struct {
	// Count is how many peers of the track the asker sees, itself included.
	Count int
	// Size is that of the track. It may be up to a second old.
	Size Size
}

// A Size is what shows the load on a tracker. Its counts are of the peers of all scopes.
type Size struct {
	Peers int // of the track, at least 1 after an announce
	// Total is the number of peers of all tracks. It may be an estimate.
	Total int
	// Age is for how long the track has had peers without a break, in whole seconds. It is 0 when
	// there is no track.
	Age time.Duration
}

// A FullError says which limit of a store refuses an announce or a subscription.
type FullError struct {
	What   string // such as "peers of this key"
	Max    int
	Stream bool // only an event stream is refused; an announce or a look may succeed
}

func (e *FullError) Error() string {
	return fmt.Sprintf("too many %s: at most %d", e.What, e.Max)
}

// Limits are what a store holds at most; 0 is no limit. A peer that would exceed one is refused
// with a [*FullError]. No peer is evicted to make room, and a renewal is never refused. A peer that
// has lapsed counts for up to a second.
type Limits struct {
	MaxKeys        int // tracks
	MaxPeers       int // peers, in all tracks together
	MaxPeersPerKey int
	// MaxPerAddr limits the registrations, in all tracks together, of one IPv4 address or of one
	// IPv6 /64, which is what one subscriber gets. The largest limit is 65535. It takes 8 MB,
	// whatever the number of addresses.
	MaxPerAddr int
}
