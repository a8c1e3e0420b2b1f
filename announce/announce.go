// Package announce is a client for trackers. A tracker is a server that lists programs under keys.
// With this package, a program lists itself under a key and finds the other programs that use the
// same key. A listed program is a peer, and the list of peers under one key is a track.
//
//	key, err := announce.ParseKey("lobby")
//	tracker, err := announce.ParseTracker("") // a tracker on this machine
//	var client announce.Client
//	reply, err := client.Announce(ctx, tracker, announce.Request{Key: key, Port: 4000})
//	for _, peer := range reply.Peers { dial(peer) }
//
// Choose a method of [Client] by what your program needs:
//   - [Client.Join] to be listed for as long as it runs. Most programs want this.
//   - [Client.Watch] to loop over the changes to the list of peers, with or without being listed.
//   - [Client.Gather] to wait until enough peers are present, each with a rank, and
//     [Gathering.Follow] to learn which of them leave after that.
//   - [Client.Announce] and [Client.Leave] for a single request. A peer is listed for the ttl of its
//     announce.
//   - [Client.List] to see the peers of one key, [Client.Index] to see all keys.
//
// Each method works with two kinds of trackers: see [ParseTracker]. A native tracker speaks
// ntrack's own protocol. A classic tracker is a BitTorrent tracker over HTTP(S). Join, Watch and
// Gather wait for trackers that are away, and handle restarts.
//
// Package wire has the protocol: the types that client and tracker share.
package announce

import "ntrack/announce/wire"

// The types of requests and replies. Package wire documents them.
type (
	// A Key names a track, which is a list of peers. Make one with ParseKey.
	Key = wire.Key
	// A Tracker is the address of a tracker. Make one with ParseTracker.
	Tracker = wire.Tracker
	// A Request has the parameters of a request to a tracker.
	Request = wire.Request
	// A Reply is a tracker's answer.
	Reply = wire.Reply
	// A Track is a key and the number of its peers.
	Track = wire.Track
	// A RefusalError says that a tracker has refused a request.
	RefusalError = wire.RefusalError
)

// NoPeers is the value of [Request.Want] that asks for no peers.
const NoPeers = wire.NoPeers

// ParseKey reads a key as a person writes it. This is any text or, for a torrent, a magnet link or
// urn:btih:. See [wire.ParseKey].
func ParseKey(s string) (Key, error) { return wire.ParseKey(s) }

// ParseTracker reads the address of one tracker: host, host:port or a URL. "" is localhost:6969. See
// [wire.ParseTracker].
func ParseTracker(s string) (Tracker, error) { return wire.ParseTracker(s) }

// ParseTrackers reads the addresses of trackers, separated by commas. "" is localhost:6969.
// See [wire.ParseTrackers].
func ParseTrackers(s string) ([]Tracker, error) { return wire.ParseTrackers(s) }

// ParseLabel makes a [Request.ID] of a label, which has 1 to 20 bytes of UTF-8. Everyone who looks at the key
// can see the label. See [wire.ParseLabel].
func ParseLabel(s string) (wire.ID, error) { return wire.ParseLabel(s) }
