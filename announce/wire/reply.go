package wire

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"time"
	"unicode/utf8"
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
	Peers []Peer
	// Sample says that the track has more peers than these. A client works it out; see Count.
	Sample bool
	// Warning is what a tracker wants a person to read, made fit to print.
	Warning string

	given  int // entries of the reply, also those that follow
	barred int // entries that nobody could dial
	again  int // entries of an endpoint that another one has
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
	r.Peers = slices.DeleteFunc(r.Peers, func(p Peer) bool {
		switch {
		case self[p.Endpoint]:
			own++
		case there[p.Endpoint]:
			again++
		default:
			there[p.Endpoint] = true
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
	yours := slices.Concat(r.Endpoints, r.self)
	for _, p := range r.Peers {
		if p.ID != (ID{}) && p.ID == req.ID {
			yours = append(yours, p.Endpoint)
		}
	}
	own, again := r.drop(yours...)
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

// AppendBencode appends the reply as a classic tracker gives it: a dictionary with sorted keys,
// with peers as BEP 23 and BEP 7 records in the compact form and else as a list of dictionaries
// (BEP 3). "external ip" is BEP 24.
func (r *Reply) AppendBencode(dst []byte, compact, noPeerID bool) []byte {
	dst = append(dst, "d8:completei0e11:external ip"...)
	dst = appendString(dst, r.You.Addr().AsSlice())
	dst = append(dst, "10:incompletei"...)
	dst = strconv.AppendInt(dst, int64(r.Count), 10)
	dst = append(dst, "e8:intervali"...)
	dst = strconv.AppendInt(dst, seconds(r.Interval), 10)
	dst = append(dst, "e12:min intervali"...)
	dst = strconv.AppendInt(dst, seconds(r.Interval), 10)
	dst = append(dst, "e5:peers"...)
	if compact {
		dst = r.appendCompact(dst)
	} else {
		dst = append(dst, 'l')
		for i := range r.Peers {
			dst = r.Peers[i].appendDict(dst, noPeerID)
		}
		dst = append(dst, 'e')
	}
	return append(dst, 'e')
}

func (r *Reply) appendCompact(dst []byte) []byte {
	const size4, size6 = 4 + 2, 16 + 2
	n4 := 0
	for i := range r.Peers {
		if r.Peers[i].Endpoint.Addr().Is4() {
			n4++
		}
	}
	dst = strconv.AppendInt(dst, int64(n4*size4), 10)
	dst = append(dst, ':')
	for i := range r.Peers {
		if e := r.Peers[i].Endpoint; e.Addr().Is4() {
			a, port := e.Addr().As4(), e.Port()
			dst = append(dst, a[0], a[1], a[2], a[3], byte(port>>8), byte(port))
		}
	}
	n6 := len(r.Peers) - n4
	if n6 == 0 {
		return dst
	}
	dst = append(dst, "6:peers6"...)
	dst = strconv.AppendInt(dst, int64(n6*size6), 10)
	dst = append(dst, ':')
	for i := range r.Peers {
		if e := r.Peers[i].Endpoint; e.Addr().Is6() {
			a := e.Addr().As16()
			dst = binary.BigEndian.AppendUint16(append(dst, a[:]...), e.Port())
		}
	}
	return dst
}

func (p *Peer) appendDict(dst []byte, noPeerID bool) []byte {
	var text [64]byte
	dst = append(dst, "d2:ip"...)
	dst = appendString(dst, p.Endpoint.Addr().AppendTo(text[:0]))
	if !noPeerID {
		id := p.ID
		if id == (ID{}) {
			id = IDOf(p.Endpoint)
		}
		dst = append(dst, "7:peer id"...)
		dst = appendString(dst, id[:])
	}
	dst = append(dst, "4:porti"...)
	dst = strconv.AppendInt(dst, int64(p.Endpoint.Port()), 10)
	return append(dst, "ee"...)
}

// AppendText appends one IP:PORT per line and nothing else.
func (r *Reply) AppendText(dst []byte) []byte {
	for i := range r.Peers {
		dst = append(r.Peers[i].Endpoint.AppendTo(dst), '\n')
	}
	return dst
}

// AppendJSON appends the reply as one line of JSON.
func (r *Reply) AppendJSON(dst []byte) []byte {
	dst = appendJSONKey(append(dst, '{'), r.Key)
	dst = append(dst, `,"you":`...)
	if r.You.Port() == 0 {
		dst = append(dst, "null"...)
	} else {
		dst = appendJSONEndpoint(dst, r.You)
	}
	dst = append(dst, `,"interval":`...)
	dst = strconv.AppendInt(dst, seconds(r.Interval), 10)
	dst = append(dst, `,"ttl":`...)
	dst = strconv.AppendInt(dst, seconds(r.TTL), 10)
	dst = append(dst, `,"count":`...)
	dst = strconv.AppendInt(dst, int64(r.Count), 10)
	dst = append(dst, `,"peers":[`...)
	for i := range r.Peers {
		if i > 0 {
			dst = append(dst, ',')
		}
		dst = appendJSONEndpoint(dst, r.Peers[i].Endpoint)
	}
	return append(dst, "]}\n"...)
}

func appendJSONEndpoint(dst []byte, e netip.AddrPort) []byte {
	return append(e.AppendTo(append(dst, '"')), '"')
}

// AppendTracks appends a scrape or the index: bencode as BEP 48 has it, a line of JSON, or a line
// of text per track with the key percent-encoded. It sorts tracks by key and drops repetitions.
func AppendTracks(dst []byte, f Format, tracks []Track) []byte {
	slices.SortFunc(tracks, func(a, b Track) int { return cmp.Compare(string(a.Key.raw), string(b.Key.raw)) })
	tracks = slices.CompactFunc(tracks, func(a, b Track) bool { return string(a.Key.raw) == string(b.Key.raw) })
	switch f {
	case FormatText:
		for _, t := range tracks {
			dst = append(AppendEscaped(dst, t.Key.raw), ' ')
			dst = append(strconv.AppendInt(dst, int64(t.Count), 10), '\n')
		}
		return dst
	case FormatJSON:
		dst = append(dst, `{"tracks":[`...)
		for i, t := range tracks {
			if i > 0 {
				dst = append(dst, ',')
			}
			dst = appendJSONKey(append(dst, '{'), t.Key)
			dst = append(dst, `,"count":`...)
			dst = append(strconv.AppendInt(dst, int64(t.Count), 10), '}')
		}
		return append(dst, "]}\n"...)
	}
	dst = append(dst, "d5:filesd"...)
	for _, t := range tracks {
		dst = appendString(dst, t.Key.raw)
		dst = append(dst, "d8:completei0e10:downloadedi0e10:incompletei"...)
		dst = append(strconv.AppendInt(dst, int64(t.Count), 10), "ee"...)
	}
	return append(dst, "ee"...)
}

// Append appends the refusal: a line of text, or bencode or JSON where those were asked for. The
// interval, for classic clients, is when to come again.
func (f *RefusalError) Append(dst []byte, form Format, interval time.Duration) []byte {
	switch form {
	case FormatJSON:
		dst = appendJSONString(append(dst, `{"error":`...), []byte(f.Reason))
		return append(dst, "}\n"...)
	case FormatBencode:
		dst = appendString(append(dst, "d14:failure reason"...), []byte(f.Reason))
		dst = append(dst, "8:intervali"...)
		dst = strconv.AppendInt(dst, seconds(interval), 10)
		if f.Retry > 0 {
			dst = append(dst, "e8:retry ini"...)
			dst = strconv.AppendInt(dst, int64((f.Retry+time.Minute-1)/time.Minute), 10)
		}
		return append(dst, "ee"...)
	}
	return append(append(dst, f.Reason...), '\n')
}

func seconds(d time.Duration) int64 { return int64(d / time.Second) }

func appendString(dst, s []byte) []byte {
	dst = strconv.AppendInt(dst, int64(len(s)), 10)
	return append(append(dst, ':'), s...)
}

func appendJSONKey(dst []byte, k Key) []byte {
	if utf8.Valid(k.raw) {
		return appendJSONString(append(dst, `"key":`...), k.raw)
	}
	return append(AppendEscaped(append(dst, `"key_escaped":"`...), k.raw), '"')
}

// appendJSONString appends valid UTF-8 as a JSON string in which also the control characters that
// JSON would allow are escaped: it may be printed on a terminal as it is.
func appendJSONString(dst, s []byte) []byte {
	dst = append(dst, '"')
	for i := 0; i < len(s); {
		r, n := utf8.DecodeRune(s[i:])
		switch {
		case r == '"' || r == '\\':
			dst = append(dst, '\\', byte(r))
		case r < 0x20 || 0x7f <= r && r < 0xa0 || r == '\u2028' || r == '\u2029':
			dst = fmt.Appendf(dst, `\u%04x`, r)
		default:
			dst = append(dst, s[i:i+n]...)
		}
		i += n
	}
	return append(dst, '"')
}
