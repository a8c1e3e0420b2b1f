// Package announce is a client for trackers: a program lists itself under a key, and finds the other
// programs that are listed there.
//
//	key, err := announce.ParseKey("lobby")
//	tracker, err := announce.ParseTracker("") // the one on this machine
//	var client announce.Client
//	reply, err := client.Announce(ctx, tracker, announce.Request{Key: key, Port: 4000})
//	for _, peer := range reply.Peers { dial(peer) }
//
// Choose a method of [Client] by what your program needs:
//   - [Client.Join] to be listed for as long as it runs. Most programs want this.
//   - [Client.Watch] to follow a loop of changes to the list of peers, listed or not.
//   - [Client.Gather] to wait until enough peers are there, and to agree on ranks.
//   - [Client.Announce] and [Client.Leave] for one request each. An announce lapses after its ttl.
//   - [Client.List] to see the peers of one key, [Client.Index] to see all keys.
//
// Each works with native trackers and with BitTorrent trackers over HTTP(S): see [ParseTracker].
// Join, Watch and Gather wait for trackers that are away, and handle restarts.
//
// Package wire has the protocol itself: the types that client and tracker share.
package announce

import "ntrack/announce/wire"

// These types cross the wire. Package wire documents them.
type (
	// A Key names a track, which is a list of peers. Make one with ParseKey.
	Key = wire.Key
	// A Tracker is the name of a tracker. Make one with ParseTracker.
	Tracker = wire.Tracker
	// A Request is what a peer asks of a tracker.
	Request = wire.Request
	// A Reply is a tracker's answer.
	Reply = wire.Reply
	// A Track is a key and how many peers it has.
	Track = wire.Track
	// A RefusalError says that a tracker answered and refused.
	RefusalError = wire.RefusalError
)

// NoPeers in [Request.Want] asks for no peers.
const NoPeers = wire.NoPeers

// ParseKey reads a key as a person writes it: text, or a magnet link or urn:btih: for a torrent. See
// [wire.ParseKey].
func ParseKey(s string) (Key, error) { return wire.ParseKey(s) }

// ParseTracker reads the name of one tracker: host, host:port or a URL. "" is localhost:6969. See
// [wire.ParseTracker].
func ParseTracker(s string) (Tracker, error) { return wire.ParseTracker(s) }

// ParseTrackers reads the names of one or more trackers, separated by commas. "" is localhost:6969.
// See [wire.ParseTrackers].
func ParseTrackers(s string) ([]Tracker, error) { return wire.ParseTrackers(s) }
