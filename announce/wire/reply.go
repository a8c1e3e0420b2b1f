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
	// You is the endpoint under which the tracker lists the client. If the port is 0, the tracker does
	// not list the client, and the address is the one from which the request came. You is the zero
	// AddrPort if the tracker does not report an address.
	You netip.AddrPort
	// Endpoints are all endpoints under which the client is listed. The first one is You, if the client
	// is listed there. There can be several after [Reply.Merge], for example if the client reaches the
	// tracker over IPv4 and IPv6. No tracker sends this list: the client works it out.
	Endpoints []netip.AddrPort
	// Interval is how long to wait before the next announce.
	Interval time.Duration
	// TTL is how long the tracker lists a peer that does not announce again. It is 0 if the tracker
	// does not report it.
	TTL time.Duration
	// Count is how many peers the client may see in this track, including itself if it is a peer. It is
	// -1 if the tracker does not report it.
	Count int
	// Peers are other peers of the track, each once, in no particular order.
	Peers []netip.AddrPort
	// Labels are the labels of Peers, as far as they have one, if [Request.Labels] asked for them. Each is
	// safe to print: it has passed [Clean], and has at most 20 bytes.
	Labels map[netip.AddrPort]string
	// Sample is true if the track has more peers than Peers. No tracker sends this: the client works it
	// out.
	Sample bool
	// Warning is a message from the tracker for a person. It is safe to print: it has passed [Clean].
	Warning string

	entries    int              // the number of peers in the reply, before any is dropped
	undialable int              // the number of entries that cannot be dialled
	repeated   int              // the number of entries with the endpoint of an earlier entry
	ownID      ID               // the client's peer id, as in the request
	byOwnID    []netip.AddrPort // the endpoints of entries with ownID
	// own are endpoints of the client that the tracker counts. Some may also be in Endpoints.
	own []netip.AddrPort
}

// ownCount returns how many of the client's endpoints the tracker counts.
func (r *Reply) ownCount() int {
	n := len(r.Endpoints)
	for _, e := range r.own {
		if !slices.Contains(r.Endpoints, e) {
			n++
		}
	}
	return n
}

// Others returns the number of peers of the track without the client, or -1 if the tracker does not
// report it. If the number is more than len(Peers), the reply does not have the rest, or they cannot be
// dialled.
func (r *Reply) Others() int {
	if r.Count < 0 {
		return -1
	}
	return max(r.Count-r.ownCount(), len(r.Peers))
}

// drop removes all entries of the client's own endpoints from the peers, and all but the first entry
// of any other endpoint. It returns how many entries it has removed for each reason.
func (r *Reply) drop(own ...netip.AddrPort) (numOwn, numRepeated int) {
	// known has the own endpoints (true), and the other endpoints that came before (false).
	known := make(map[netip.AddrPort]bool, len(r.Peers))
	for _, e := range own {
		known[e] = true
	}
	r.Peers = slices.DeleteFunc(r.Peers, func(e netip.AddrPort) bool {
		isOwn, seen := known[e]
		switch {
		case isOwn:
			numOwn++
		case seen:
			numRepeated++
		default:
			known[e] = false
		}
		return seen
	})
	return numOwn, numRepeated
}

// RemoveOwn removes e, an endpoint of the client, from the peers. If e was among them, the tracker
// counts it, and Others subtracts it.
func (r *Reply) RemoveOwn(e netip.AddrPort) {
	if numOwn, _ := r.drop(e); numOwn > 0 {
		r.own = append(r.own, e)
	}
}

// SetOwn sets the endpoints of the client that the tracker counts. Some may also be in Endpoints.
func (r *Reply) SetOwn(own []netip.AddrPort) { r.own = own }

// UncountOwn corrects the reply to an announce that the client sent instead of a look, because the
// classic protocol has no look. The announced port is 1, which cannot be dialled. count is the Count
// of the track before that announce.
func (r *Reply) UncountOwn(count int) {
	// One of the entries that cannot be dialled may be the client's own.
	r.Sample = count > r.entries-min(r.undialable, 1) || count < 0 && r.Sample
	r.Count = max(count-r.repeated, min(count, len(r.Peers)))
}

// If a track has at most fullList peers, all common tracker programs list every one of them, if the
// request wants that many.
const fullList = 30

// finish works out what a tracker does not report. It removes the client from the peers, counts each
// endpoint once, and sets r.Endpoints and r.Sample. local is the client's end of the connection.
func (r *Reply) finish(req *Request, local netip.AddrPort) {
	announced := req.Verb == VerbAnnounce
	local = netip.AddrPortFrom(local.Addr(), cmp.Or(req.Port, local.Port()))
	if r.You.Addr().IsValid() && r.You.Port() == 0 && announced {
		r.You = netip.AddrPortFrom(r.You.Addr(), req.Port)
	}
	switch {
	case r.You.Port() != 0:
		r.Endpoints = []netip.AddrPort{r.You}
	case announced && local.IsValid():
		r.own = []netip.AddrPort{local}
	}
	numOwn, repeated := r.drop(slices.Concat(r.Endpoints, r.own, r.byOwnID)...)
	r.repeated = repeated
	want := req.want()
	switch {
	case r.Count < 0:
		r.Sample = r.entries >= min(want, fullList) // a limit may have cut the list
	case announced && numOwn == 0:
		// The tracker counts the client, but leaves it out of the list.
		r.Sample = r.entries < r.Count-1
	case numOwn > 0 && r.entries == r.Count-1 && r.entries < min(want, fullList):
		// The list is complete except for the client, but it has the client's endpoint. So that entry
		// is an older announce with another peer id, and the tracker counts the endpoint once more.
		repeated++
	default:
		r.Sample = r.entries < r.Count
	}
	if repeated += max(numOwn-1, 0); repeated > 0 {
		r.Count = max(r.Count-repeated, min(r.Count, len(r.Peers)+r.ownCount()))
	}
}

// Coverage returns the share of the track's peers that the reply has: 1 if it has all of them, and
// less if it is a sample.
func (r *Reply) Coverage() float64 {
	switch {
	case !r.Sample:
		return 1
	case r.Count > 0:
		return min(float64(len(r.Peers))/float64(r.Count), 0.99)
	}
	return 0.05 // a guess, because the tracker does not report a count
}

// Merge merges o, another reply about the same track, into r. The replies come from two trackers, or
// from one tracker over IPv4 and over IPv6. Merge keeps up to want peers; want is as in
// [Request.Want]. It keeps the shorter interval and the shorter ttl. It takes You,
// Warning and the label of a peer from o only if r does not have them.
func (r *Reply) Merge(o *Reply, want int) {
	if !r.You.IsValid() {
		r.You = o.You
	}
	r.Endpoints = union(r.Endpoints, o.Endpoints)
	r.own = union(r.own, o.own)
	r.Peers = append(r.Peers, o.Peers...)
	for e, label := range o.Labels {
		r.addLabel(e, label)
	}
	r.drop(slices.Concat(r.Endpoints, r.own)...)
	r.undialable = max(r.undialable, o.undialable)
	if r.Count < 0 || o.Count < 0 {
		r.Count, r.Sample = -1, r.Sample && o.Sample
	} else {
		all := len(r.Peers) + r.ownCount()
		r.Count = max(r.Count, o.Count, all)
		r.Sample = (r.Sample || o.Sample) && r.Count > all+r.undialable
	}
	if limit := (&Request{Want: want}).want(); len(r.Peers) > limit {
		r.Peers, r.Sample = r.Peers[:limit], true
	}
	r.Interval = shorter(r.Interval, o.Interval)
	r.TTL = shorter(r.TTL, o.TTL)
	r.Warning = cmp.Or(r.Warning, o.Warning)
}

// union returns a and every element of b that is not in a.
func union(a, b []netip.AddrPort) []netip.AddrPort {
	for _, e := range b {
		if !slices.Contains(a, e) {
			a = append(a, e)
		}
	}
	return a
}

// shorter returns the shorter of two durations. A duration of 0 is not known.
func shorter(a, b time.Duration) time.Duration {
	if a == 0 || b != 0 && b < a {
		return b
	}
	return a
}

// A Track is a key and the number of its peers, as a scrape or an index reports it.
type Track struct {
	Key   Key
	Count int
}

func byKey(a, b Track) int { return bytes.Compare(a.Key.raw, b.Key.raw) }

// MergeTracks merges several indexes into one, sorted by key. A peer may be in more than one index. So
// the count of a track is the highest of its counts, not their sum.
func MergeTracks(indexes ...[]Track) []Track {
	return compactTracks(slices.Concat(indexes...))
}

// compactTracks sorts tracks by key, in place. If a key is repeated, it keeps the highest count.
func compactTracks(tracks []Track) []Track {
	slices.SortFunc(tracks, func(a, b Track) int { return cmp.Or(byKey(a, b), b.Count-a.Count) })
	return slices.CompactFunc(tracks, func(a, b Track) bool { return byKey(a, b) == 0 })
}

// A RefusalError is a tracker's refusal.
type RefusalError struct {
	// Status is the HTTP status. Most refusals of BitTorrent trackers have status 200.
	Status int
	// Reason explains the refusal in one line. A reason from the network has passed [Clean].
	Reason string
	// Retry is how long to wait before the next request, at most a day. It is 0 if the tracker does not
	// report a time.
	Retry time.Duration
	// Never says that the tracker will not serve this request later either. In bencode it is the
	// "never" of BEP 31; the other formats do not have it. A client reads it as a Retry of a day.
	Never bool
}

func (f *RefusalError) Error() string { return f.Reason }

// refuse makes a RefusalError. The arguments after status are those of [fmt.Sprintf].
func refuse(status int, format string, args ...any) *RefusalError {
	return &RefusalError{Status: status, Reason: fmt.Sprintf(format, args...)}
}
