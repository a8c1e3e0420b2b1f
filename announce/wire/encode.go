package wire

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"strconv"
	"time"
	"unicode/utf8"
)

// AppendReply appends the tracker's reply to r in a format. FormatUnnamed is written as bencode. It
// ignores reply.Peers, which do not have peer ids, and writes peers instead.
func (r *Request) AppendReply(dst []byte, format Format, reply *Reply, peers []Peer) []byte {
	switch format {
	case FormatJSON:
		return reply.appendJSON(dst, peers, r.Labels)
	case FormatText:
		for i := range peers {
			dst = append(peers[i].Endpoint.AppendTo(dst), '\n')
		}
		return dst
	case FormatHTTPSD:
		return reply.appendHTTPSD(dst, peers)
	}
	return reply.appendBencode(dst, peers, r.Compact, r.NoPeerID)
}

// appendBencode appends a dictionary, whose keys have to be sorted. Compact peers are records (BEP 23,
// BEP 7). Other peers are a list of dictionaries (BEP 3). "external ip" is BEP 24.
func (r *Reply) appendBencode(dst []byte, peers []Peer, compact, noPeerID bool) []byte {
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
		return append(appendCompact(dst, peers), 'e')
	}
	dst = append(dst, 'l')
	for i := range peers {
		dst = peers[i].appendDict(dst, noPeerID)
	}
	return append(dst, "ee"...)
}

func appendCompact(dst []byte, peers []Peer) []byte {
	const size4, size6 = 4 + 2, 16 + 2
	n4 := 0
	for i := range peers {
		if peers[i].Endpoint.Addr().Is4() {
			n4++
		}
	}
	dst = strconv.AppendInt(dst, int64(n4*size4), 10)
	dst = append(dst, ':')
	for i := range peers {
		if e := peers[i].Endpoint; e.Addr().Is4() {
			a, port := e.Addr().As4(), e.Port()
			dst = append(dst, a[0], a[1], a[2], a[3], byte(port>>8), byte(port))
		}
	}
	n6 := len(peers) - n4
	if n6 == 0 {
		return dst
	}
	dst = append(dst, "6:peers6"...)
	dst = strconv.AppendInt(dst, int64(n6*size6), 10)
	dst = append(dst, ':')
	for i := range peers {
		if e := peers[i].Endpoint; e.Addr().Is6() {
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
			id = idOf(p.Endpoint)
		}
		dst = append(dst, "7:peer id"...)
		dst = appendString(dst, id[:])
	}
	dst = append(dst, "4:porti"...)
	dst = strconv.AppendInt(dst, int64(p.Endpoint.Port()), 10)
	return append(dst, "ee"...)
}

// appendJSON appends the reply as one line.
func (r *Reply) appendJSON(dst []byte, peers []Peer, labels bool) []byte {
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
	for i := range peers {
		if i > 0 {
			dst = append(dst, ',')
		}
		dst = appendJSONEndpoint(dst, peers[i].Endpoint)
	}
	dst = append(dst, ']')
	if labels {
		dst = appendLabels(dst, peers)
	}
	return append(dst, "}\n"...)
}

// appendHTTPSD appends a list of target groups as Prometheus reads it: one group, or none without peers.
func (r *Reply) appendHTTPSD(dst []byte, peers []Peer) []byte {
	if len(peers) == 0 {
		return append(dst, "[]\n"...)
	}
	dst = append(dst, `[{"targets":[`...)
	for i := range peers {
		if i > 0 {
			dst = append(dst, ',')
		}
		dst = appendJSONEndpoint(dst, peers[i].Endpoint)
	}
	dst = append(dst, `],"labels":{"__meta_ntrack_key`...)
	if utf8.Valid(r.Key.raw) {
		dst = appendJSONString(append(dst, `":`...), r.Key.raw)
	} else {
		dst = append(AppendEscaped(append(dst, `_escaped":"`...), r.Key.raw), '"')
	}
	return append(dst, "}}]\n"...)
}

func appendJSONEndpoint(dst []byte, e netip.AddrPort) []byte {
	return append(e.AppendTo(append(dst, '"')), '"')
}

// AppendTracks appends a scrape or the index: as one line of JSON, as text, or as bencode (BEP 48). The
// text has one line for each track, with the key percent-encoded. AppendTracks sorts tracks by key, in
// place, and writes each key once.
func AppendTracks(dst []byte, format Format, tracks []Track) []byte {
	tracks = compactTracks(tracks)
	switch format {
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

// Append appends the refusal as bencode, as JSON, or as a line of text. Only bencode has interval,
// which is how long the client should wait before its next announce.
func (f *RefusalError) Append(dst []byte, format Format, interval time.Duration) []byte {
	switch format {
	case FormatJSON, FormatHTTPSD:
		dst = appendJSONString(append(dst, `{"error":`...), []byte(f.Reason))
		return append(dst, "}\n"...)
	case FormatBencode:
		dst = appendString(append(dst, "d14:failure reason"...), []byte(f.Reason))
		dst = append(dst, "8:intervali"...)
		dst = strconv.AppendInt(dst, seconds(interval), 10)
		if f.Never { // BEP 31, too
			return append(dst, "e8:retry in5:nevere"...)
		}
		if f.Retry > 0 { // in minutes, rounded up (BEP 31)
			dst = append(dst, "e8:retry ini"...)
			dst = strconv.AppendInt(dst, int64((f.Retry+time.Minute-1)/time.Minute), 10)
		}
		return append(dst, "ee"...)
	}
	return append(append(dst, f.Reason...), '\n')
}

func seconds(d time.Duration) int64 { return int64(d / time.Second) }

// appendString appends s as a bencode string.
func appendString(dst, s []byte) []byte {
	dst = strconv.AppendInt(dst, int64(len(s)), 10)
	return append(append(dst, ':'), s...)
}

// appendJSONKey appends the member "key", or "key_escaped" if k is not UTF-8.
func appendJSONKey(dst []byte, k Key) []byte {
	if utf8.Valid(k.raw) {
		return appendJSONString(append(dst, `"key":`...), k.raw)
	}
	return append(AppendEscaped(append(dst, `"key_escaped":"`...), k.raw), '"')
}

// appendJSONString appends s, which is valid UTF-8, as a JSON string. It escapes all control
// characters, which is more than JSON requires, so the string is safe to show on a terminal.
func appendJSONString(dst, s []byte) []byte {
	dst = append(dst, '"')
	for i := 0; i < len(s); {
		if c := s[i]; 0x20 <= c && c < 0x7f && c != '"' && c != '\\' { // most are, and this is faster
			dst = append(dst, c)
			i++
			continue
		}
		r, n := utf8.DecodeRune(s[i:])
		switch {
		case r == '"' || r == '\\':
			dst = append(dst, '\\', byte(r))
		case escapedInJSON(r):
			dst = fmt.Appendf(dst, `\u%04x`, r)
		default:
			dst = append(dst, s[i:i+n]...)
		}
		i += n
	}
	return append(dst, '"')
}

// escapedInJSON reports whether appendJSONString writes r as \u. These are the control characters, and
// two line ends of Unicode.
func escapedInJSON(r rune) bool {
	return r < 0x20 || 0x7f <= r && r < 0xa0 || r == '\u2028' || r == '\u2029'
}
