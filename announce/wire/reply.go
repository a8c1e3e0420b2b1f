package wire

import (
	"bytes"
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"time"
)

// A Reply is a tracker's answer to an announce, a look or a leave.
type Reply struct {
	// Key is the key of the request.
	Key Key
	// You is the endpoint that the tracker has listed. With port 0 none is listed, and the address
	// is the one that the tracker has seen. You is invalid if the tracker reports neither.
	You netip.AddrPort
	// Endpoints are all that are listed for you, You first. There are several if a tracker is
	// reached over both families, or after [Reply.Merge]. The client finds them out.
	Endpoints []netip.AddrPort
	// Interval is how long to wait before the next announce.
	Interval time.Duration
	// TTL is how long the announce lasts without a renewal, and 0 if the tracker does not report it.
	TTL time.Duration
	// Count is how many peers of the track the asker may see, itself included if it is one. It is -1
	// if the tracker does not count.
	Count int
	// Peers are other peers of the track, each once and in no order.
	Peers []netip.AddrPort
	// Sample is true if the track has more peers than these. The client finds it out.
	Sample bool
	// Warning is a message of the tracker for a person. It has passed [Clean].
	Warning string

	entries    int              // entries in the reply, before any is dropped
	undialable int              // entries that nobody could dial
	repeated   int              // entries that repeat the endpoint of another one
	asker      ID               // the peer id of the asker
	byID       []netip.AddrPort // peers that have it too, and so are the asker
	// self are endpoints of yours that the tracker counts without naming them to you.
	self []netip.AddrPort
}

// own returns how many of the peers that the tracker counts are you.
func (r *Reply) own() int {
	n := len(r.Endpoints)
	for _, e := range r.self {
		if !slices.Contains(r.Endpoints, e) {
			n++
		}
	}
	return n
}

// Others returns how many peers the track has besides you, and -1 if the tracker does not count. If
// that is more than len(Peers), the others are not in the reply or cannot be dialled.
func (r *Reply) Others() int {
	if r.Count < 0 {
		return -1
	}
	return max(r.Count-r.own(), len(r.Peers))
}

// drop removes yours from the peers, and all but the first entry of any other endpoint. It returns
// how many entries it has removed for each reason.
func (r *Reply) drop(yours ...netip.AddrPort) (own, repeated int) {
	isYours := make(map[netip.AddrPort]bool, len(r.Peers)) // of each endpoint that has been seen
	for _, e := range yours {
		isYours[e] = true
	}
	r.Peers = slices.DeleteFunc(r.Peers, func(e netip.AddrPort) bool {
		is, seen := isYours[e]
		switch {
		case is:
			own++
		case seen:
			repeated++
		default:
			isYours[e] = false
		}
		return seen
	})
	return own, repeated
}

// RemoveSelf removes e from the peers. If it was there, it counts as an endpoint of yours.
func (r *Reply) RemoveSelf(e netip.AddrPort) {
	if own, _ := r.drop(e); own > 0 {
		r.self = append(r.self, e)
	}
}

// SetSelf replaces the endpoints of yours that the tracker counts. It may name them or not.
func (r *Reply) SetSelf(own []netip.AddrPort) { r.self = own }

// UncountAsker corrects the reply to an announce that was only meant to look. count is what the
// tracker counted before the announce.
func (r *Reply) UncountAsker(count int) {
	r.Sample = count > r.entries-min(r.undialable, 1) || count < 0 && r.Sample
	r.Count = max(count-r.repeated, min(count, len(r.Peers)))
}

// fewestGiven is how many peers every known tracker gives before it starts to choose among them.
const fewestGiven = 30

// finish works out what a tracker does not report. It removes the asker from the peers, counts each
// endpoint once, and finds out whether the peers are all that the track has.
func (r *Reply) finish(req *Request, local netip.AddrPort) {
	member := req.Verb == VerbAnnounce
	local = netip.AddrPortFrom(local.Addr(), cmp.Or(req.Port, local.Port()))
	if r.You.Addr().IsValid() && r.You.Port() == 0 && member {
		r.You = netip.AddrPortFrom(r.You.Addr(), req.Port)
	}
	switch {
	case r.You.Port() != 0:
		r.Endpoints = []netip.AddrPort{r.You}
	case member && local.IsValid():
		r.self = []netip.AddrPort{local}
	}
	own, repeated := r.drop(slices.Concat(r.Endpoints, r.self, r.byID)...)
	r.repeated = repeated
	want := req.want()
	switch {
	case r.Count < 0:
		r.Sample = r.entries >= want
	case member && own == 0: // the tracker counts the asker and leaves it out
		r.Sample = r.entries < r.Count-1
	case own > 0 && r.entries == r.Count-1 && r.entries < min(want, fewestGiven):
		repeated++ // the tracker leaves the asker out, and another entry has its endpoint
	default:
		r.Sample = r.entries < r.Count
	}
	if repeated += max(own-1, 0); repeated > 0 {
		r.Count = max(r.Count-repeated, min(r.Count, len(r.Peers)+r.own()))
	}
}

// Coverage returns which share of the track's peers the reply has. 1 is all of them.
func (r *Reply) Coverage() float64 {
	switch {
	case !r.Sample:
		return 1
	case r.Count > 0:
		return min(float64(len(r.Peers))/float64(r.Count), 0.99)
	}
	return 0.05 // a guess: the tracker does not count
}

// Merge adds to r what o, another reply about the same track, reports: by another tracker, or by the
// same one over the other family. It keeps up to want peers (as [Request.Want]). The interval and
// the ttl are the shorter ones. You and Warning are those of r, or else those of o.
func (r *Reply) Merge(o *Reply, want int) {
	if !r.You.IsValid() {
		r.You = o.You
	}
	r.Endpoints = union(r.Endpoints, o.Endpoints)
	r.self = union(r.self, o.self)
	r.Peers = append(r.Peers, o.Peers...)
	r.drop(slices.Concat(r.Endpoints, r.self)...)
	r.undialable = max(r.undialable, o.undialable)
	if r.Count < 0 || o.Count < 0 {
		r.Count, r.Sample = -1, r.Sample && o.Sample
	} else {
		all := len(r.Peers) + r.own()
		r.Count = max(r.Count, o.Count, all)
		r.Sample = (r.Sample || o.Sample) && r.Count > all+r.undialable
	}
	if most := (&Request{Want: want}).want(); len(r.Peers) > most {
		r.Peers, r.Sample = r.Peers[:most], true
	}
	r.Interval = shorter(r.Interval, o.Interval)
	r.TTL = shorter(r.TTL, o.TTL)
	r.Warning = cmp.Or(r.Warning, o.Warning)
}

// union returns a and each of b that it does not have.
func union(a, b []netip.AddrPort) []netip.AddrPort {
	for _, e := range b {
		if !slices.Contains(a, e) {
			a = append(a, e)
		}
	}
	return a
}

// shorter returns the shorter of two durations. A duration of 0 is unknown.
func shorter(a, b time.Duration) time.Duration {
	if a == 0 || b != 0 && b < a {
		return b
	}
	return a
}

// A Track is a key and how many peers it has, in a scrape or an index.
type Track struct {
	Key   Key
	Count int
}

func byKey(a, b Track) int { return bytes.Compare(a.Key.raw, b.Key.raw) }

// MergeTracks returns one index of several, sorted by key. Indexes may count the same peers, so the
// count of a track is the highest of them, not their sum.
func MergeTracks(indexes ...[]Track) []Track {
	return compactTracks(slices.Concat(indexes...))
}

// compactTracks sorts tracks by key, in place. It keeps the highest count of each key.
func compactTracks(tracks []Track) []Track {
	slices.SortFunc(tracks, func(a, b Track) int { return cmp.Or(byKey(a, b), b.Count-a.Count) })
	return slices.CompactFunc(tracks, func(a, b Track) bool { return byKey(a, b) == 0 })
}

// A RefusalError is a tracker's refusal.
type RefusalError struct {
	// Status is the HTTP status. A classic tracker sends 200 with most of its refusals.
	Status int
	// Reason explains the refusal in one line. A reason from the network has passed [Clean].
	Reason string
	// Retry is how long to wait before the next request, at most a day. It is 0 if the tracker names
	// no time.
	Retry time.Duration
}

func (f *RefusalError) Error() string { return f.Reason }

func refuse(status int, format string, args ...any) *RefusalError {
	return &RefusalError{Status: status, Reason: fmt.Sprintf(format, args...)}
}
