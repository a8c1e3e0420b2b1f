package wire

import (
	"bytes"
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"time"
)

// A Reply is what a tracker says to an announce, a look or a leave.
type Reply struct {
	// Key is the key of the track; zero where the reply does not repeat it.
	Key Key
	// You is the endpoint the tracker has listed. Port 0: none is listed, the address is the one
	// the tracker saw. Invalid where a tracker tells neither.
	You netip.AddrPort
	// Endpoints are all that are listed for you, You first: several where a tracker is reached over
	// both families, or where replies of several trackers are merged. A client works it out; empty
	// where none is listed.
	Endpoints []netip.AddrPort
	// Interval is how long to wait before the next announce.
	Interval time.Duration
	// TTL is how long the announce holds unless renewed; 0 where a tracker does not tell.
	TTL time.Duration
	// Count is how many peers the track has that the asker may see, itself included if it joined;
	// -1 where a tracker does not tell.
	Count int
	// Peers are other peers of the track, in no order, each once.
	Peers []netip.AddrPort
	// Sample says that the track has more peers than these. A client works it out; see Count.
	Sample bool
	// Warning is what a tracker wants a person to read, made fit to print.
	Warning string

	given  int              // entries of the reply, also those that follow
	barred int              // entries that nobody could dial
	again  int              // entries of an endpoint that another one has
	asker  ID               // the peer id of the request
	byID   []netip.AddrPort // entries that have it
	// self are own endpoints that the tracker counts and does not name: connections come from there.
	self []netip.AddrPort
}

// own is how many of those that the tracker counts are you.
func (r *Reply) own() int {
	n := len(r.Endpoints)
	for _, e := range r.self {
		if !slices.Contains(r.Endpoints, e) {
			n++
		}
	}
	return n
}

// Others is how many peers the track has besides you; -1 where a tracker does not tell. Where that
// is more than there are Peers, some of them are not in the reply, or cannot be dialled.
func (r *Reply) Others() int {
	if r.Count < 0 {
		return -1
	}
	return max(r.Count-r.own(), len(r.Peers))
}

// drop takes out the peers that are yours, and all but the first of each endpoint. It returns how
// many entries were which.
func (r *Reply) drop(yours ...netip.AddrPort) (own, again int) {
	self := make(map[netip.AddrPort]bool)
	for _, e := range yours {
		self[e] = true
	}
	there := make(map[netip.AddrPort]bool, len(r.Peers))
	r.Peers = slices.DeleteFunc(r.Peers, func(e netip.AddrPort) bool {
		switch {
		case self[e]:
			own++
		case there[e]:
			again++
		default:
			there[e] = true
			return false
		}
		return true
	})
	return own, again
}

// Disown takes e, where it is among the peers, for an endpoint of yours.
func (r *Reply) Disown(e netip.AddrPort) {
	if own, _ := r.drop(e); own > 0 {
		r.self = append(r.self, e)
	}
}

// WithoutLooker corrects the reply to an announce of somebody who only looks, and who is therefore no
// peer: count is what the tracker counted before.
func (r *Reply) WithoutLooker(count int) {
	r.Sample = count > r.given-min(r.barred, 1) || count < 0 && r.Sample
	r.Count = max(count-r.again, min(count, len(r.Peers)))
}

// SetSelf says which endpoints are your own, whether the tracker names them or only counts them.
func (r *Reply) SetSelf(own []netip.AddrPort) { r.self = own }

// fewestGiven is how many peers every known tracker gives before it chooses among them.
const fewestGiven = 30

// finish works out what trackers leave to their clients: it takes the asker itself out of the
// peers, which not every tracker does, counts each endpoint once, and tells whether the peers are
// all there are.
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
	own, again := r.drop(slices.Concat(r.Endpoints, r.self, r.byID)...)
	r.again = again
	want := req.Want
	if want == 0 {
		want = DefaultWant
	}
	switch others := r.Count; {
	case r.Count < 0:
		r.Sample = r.given >= want
	case member && own == 0:
		r.Sample = r.given < others-1 // the tracker counts the asker, and has not given it
	case own > 0 && r.given == others-1 && r.given < min(want, fewestGiven):
		again++ // it has given what else has the asker's endpoint, but not the asker
	default:
		r.Sample = r.given < others
	}
	if again += max(own-1, 0); again > 0 {
		r.Count = max(r.Count-again, min(r.Count, len(r.Peers)+r.own()))
	}
	r.Key = req.Key // whatever the tracker calls it
}

// Share is how much of the track a reply has told; 1 is all of it.
func (r *Reply) Share() float64 {
	switch {
	case !r.Sample:
		return 1
	case r.Count > 0:
		return min(float64(len(r.Peers))/float64(r.Count), 0.99)
	}
	return 0.05 // where the tracker does not say how large the track is
}

// Merge adds what another tracker replied about the same track, or the same one over the other
// family: who is there by either, up to want (as [Request.Want]). What is told once for all is
// taken from r, where it is told; the interval and the ttl are the shorter ones.
func (r *Reply) Merge(o *Reply, want int) {
	if !r.You.IsValid() {
		r.You = o.You
	}
	for _, e := range o.Endpoints {
		if !slices.Contains(r.Endpoints, e) {
			r.Endpoints = append(r.Endpoints, e)
		}
	}
	for _, e := range o.self {
		if !slices.Contains(r.self, e) {
			r.self = append(r.self, e)
		}
	}
	r.Peers = append(r.Peers, o.Peers...)
	r.drop(slices.Concat(r.Endpoints, r.self)...)
	r.barred = max(r.barred, o.barred)
	if r.Count < 0 || o.Count < 0 {
		r.Count, r.Sample = -1, r.Sample && o.Sample
	} else {
		all := len(r.Peers) + r.own()
		r.Count = max(r.Count, o.Count, all)
		r.Sample = (r.Sample || o.Sample) && r.Count > all+r.barred
	}
	if want == 0 {
		want = DefaultWant
	}
	if len(r.Peers) > max(want, 0) {
		r.Peers, r.Sample = r.Peers[:max(want, 0)], true
	}
	r.Interval = shorter(r.Interval, o.Interval)
	r.TTL = shorter(r.TTL, o.TTL)
	if r.Warning == "" {
		r.Warning = o.Warning
	}
}

// shorter is the shorter of two durations that are told; 0 is one that is not.
func shorter(a, b time.Duration) time.Duration {
	if a == 0 || b != 0 && b < a {
		return b
	}
	return a
}

// A Track is a key and how many peers it has, in a scrape or the index.
type Track struct {
	Key   Key
	Count int
}

// MergeTracks is one index of several, sorted by key. A peer may be in each of them: a track has as
// many as the index says that has the most.
func MergeTracks(indexes ...[]Track) []Track {
	tracks := slices.Concat(indexes...)
	slices.SortFunc(tracks, func(a, b Track) int {
		return cmp.Or(bytes.Compare(a.Key.raw, b.Key.raw), b.Count-a.Count)
	})
	return slices.CompactFunc(tracks, func(a, b Track) bool { return bytes.Equal(a.Key.raw, b.Key.raw) })
}

// A RefusalError is a tracker's refusal.
type RefusalError struct {
	// Status is the HTTP status. A classic tracker sends 200 with most of its failures.
	Status int
	// Reason says why, in one line. From the network it has passed [Clean].
	Reason string
	// Retry is how long to wait before asking again, a day at most; 0 where the tracker names no time.
	Retry time.Duration
}

func (f *RefusalError) Error() string { return f.Reason }

func refuse(status int, format string, args ...any) *RefusalError {
	return &RefusalError{Status: status, Reason: fmt.Sprintf(format, args...)}
}
