package announce

import "ntrack/announce/wire"

// What crosses the wire, as package wire has it.
type (
	// A Key names a track.
	Key = wire.Key
	// A Tracker is the name of a tracker.
	Tracker = wire.Tracker
	// A Request is what a peer asks of a tracker.
	Request = wire.Request
	// A Reply is what a tracker answers.
	Reply = wire.Reply
	// An ID is a peer id.
	ID = wire.ID
	// A Track is a key and how many peers it has.
	Track = wire.Track
	// A RefusalError is a tracker's refusal.
	RefusalError = wire.RefusalError
)

// NoPeers as [Request.Want] asks for no peers.
const NoPeers = wire.NoPeers

// ParseKey is [wire.ParseKey].
func ParseKey(s string) (Key, error) { return wire.ParseKey(s) }

// ParseTracker is [wire.ParseTracker].
func ParseTracker(s string) (Tracker, error) { return wire.ParseTracker(s) }

// ParseTrackers is [wire.ParseTrackers].
func ParseTrackers(s string) ([]Tracker, error) { return wire.ParseTrackers(s) }
