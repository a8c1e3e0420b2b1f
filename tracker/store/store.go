// Package store says what a tracker needs of whatever keeps its peers: the interface [Store], its
// errors and its limits. Package memory is the one that a tracker has by itself, and package storetest
// holds any other to the same sentences.
package store

import (
	"context"
	"fmt"
	"net/netip"
	"time"

	"ntrack/announce/wire"
)

// A Store keeps the peers of every track: one method per thing a user does. storetest holds each
// sentence below against an implementation.
//
// Endpoints and addresses are canonical ([wire.Canonical]), keys have 1 to 255 bytes. A peer
// is its endpoint; announced again it is renewed, never there twice. What a caller is given and
// counted are the peers his scope sees ([wire.Scope.Sees]) that have not lapsed, to the second.
// A caller never misses his own write; what others did a moment ago may show a step later. Keys and
// slices passed in are only good during the call: a store copies what it keeps.
//
// A track above 1,000 peers must not hold others up. Where few of its peers can be given, because
// most have just lapsed or are hidden from the asker, a sample may miss some.
//
// A Store is called from any number of goroutines. It may block, and gives up when ctx ends. A
// store over one of its limits returns a [*FullError] and has then changed nothing.
type Store interface {
	// Announce lists peer under key until ttl from now, or as long as it already was if that is
	// longer (a store may cut a ttl to 4 hours), and appends to dst at most want.Peers others of the track: all there are, or a random
	// sample, another each time, without repetition. Where the track has peers of both families,
	// each gets at least a quarter of these as far as it has so many. Recording and sampling are one
	// atomic step. An ID replaces the one the peer gave before; a zero ID takes it away.
	//
	// ttl, which is above 0, may depend on the size of the track with the peer in it, which the
	// Result tells, too. It is called once, or not at all where there is an error. It is quick and
	// calls no store, so that it can be called with a lock held.
	Announce(ctx context.Context, key []byte, peer wire.Peer, ttl func(Size) time.Duration, want Want, dst []wire.Peer) ([]wire.Peer, Result, error)

	// Look does what Announce does for an asker at this address who does not join.
	Look(ctx context.Context, key []byte, asker netip.Addr, want Want, dst []wire.Peer) ([]wire.Peer, Result, error)

	// Leave takes the peer out of the track at once. That it was not there is no error. A track
	// without peers leaves nothing behind.
	Leave(ctx context.Context, key []byte, endpoint netip.AddrPort) error

	// Scrape appends to dst the count of each of keys, 0 for a track that is not there, in any
	// order; when keys is empty, of every track with a peer for the asker. It may show tracks as
	// they were at different moments of the call.
	Scrape(ctx context.Context, keys []wire.Key, asker netip.Addr, dst []wire.Track) ([]wire.Track, error)

	// Subscribe appends to dst every other peer of the track, without IDs, and has the subscriber
	// told, from that moment on, who joins and who leaves. A peer whose endpoint has a port is
	// listed, as by an announce, and does not lapse as long as one of its subscriptions lasts; after
	// the last it is listed until its last announce lapses, if that has not happened yet. One whose
	// port is 0 only looks. Leave takes a peer out whatever holds it, and ends its subscriptions. A
	// track above 10,000 peers, whoever sees them, is refused with a [*FullError] of a stream: it is
	// too large to stream.
	//
	// wake is called whenever Next may have something new to give, from any goroutine, perhaps
	// before Subscribe returns or once more after Close. It must not block, nor call the store.
	Subscribe(ctx context.Context, key []byte, peer wire.Peer, wake func(), dst []wire.Peer) ([]wire.Peer, Subscription, error)
}

// A Subscription tells of the changes of a track. It never waits for its subscriber: who lets more
// than some thousand changes wait has it ended. Its methods may be called from any goroutine, Next
// from one at a time.
type Subscription interface {
	// Next appends to dst what has changed since it was called last, in order, as far as the
	// subscriber sees it, but never the subscriber itself. Each change is there within a second; a
	// lapse is a leave; a renewal is none. Changes of one peer that undo each other within 50
	// milliseconds are left out. live is false when the subscription has ended: Leave took the
	// peer out, too many changes waited, or the store has a reason of its own.
	Next(dst []Change) (changes []Change, live bool)
	// Close ends the subscription and its hold on the peer. It must be called, also after it has
	// ended, and may be called again.
	Close()
}

// A Change is a peer who joined or left.
type Change struct {
	Endpoint netip.AddrPort
	Joined   bool
}

// A Want is what an asker is to be given.
type Want struct {
	Peers int // at most
	// IDs says that the peers are to come with their IDs; otherwise these are zero. To read them
	// takes time.
	IDs bool
}

// A Result is what an announce did, or a look found.
type Result struct {
	// Joined is false when the peer was there already, and after a look.
	Joined bool
	// Count is how many peers of the track the asker sees, itself included.
	Count int
	// Size is that of the track.
	Size Size
}

// A Size is what the load on a tracker can be told from. Its counts are of all peers, whoever sees
// them.
type Size struct {
	Peers int // of the track
	Total int // of all tracks of the store
	// Age is for how long the track has had peers without a break, in whole seconds; 0 where there
	// is no track.
	Age time.Duration
}

// A FullError says which limit of a store an announce would have gone over.
type FullError struct {
	What   string // such as "peers of this key"
	Max    int
	Stream bool // of an event stream alone: it says nothing of announces and looks
}

func (e *FullError) Error() string {
	return fmt.Sprintf("too many %s: at most %d", e.What, e.Max)
}

// Limits are what a store holds at most; 0 is no limit. Whoever would go over one is refused with
// a [*FullError]. Nobody is turned out to make room, and a renewal is never refused. A peer that
// has lapsed counts for up to a second.
type Limits struct {
	MaxKeys        int // tracks
	MaxPeers       int // peers, in all tracks together
	MaxPeersPerKey int
	// MaxPerAddr is for the registrations, in all tracks together, of one IPv4 address or of one
	// IPv6 /64, which is what one subscriber gets. 65535 is the most. It costs 8 MB, whatever
	// the number of addresses.
	MaxPerAddr int
}
