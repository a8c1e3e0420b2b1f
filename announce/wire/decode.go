package wire

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"
)

// DefaultInterval is the interval if a reply does not have one.
const DefaultInterval = 30 * time.Minute

// The shortest and the longest interval. DecodeReply clamps the interval of a tracker to them, so that
// a client sends neither too many requests nor almost none. A native tracker may set an interval of
// one second: its ttl is then short too, so the client must not wait longer.
const (
	MinInterval = 10 * time.Second
	MaxInterval = time.Hour
)

// DecodeReply reads the body of the reply to r. local is the client's end of the connection. The body
// is JSON, bencode or text; its first byte shows which. If it is a refusal, the error is a
// [*RefusalError].
//
// DecodeReply drops peers that cannot be dialled: a host name, port 0, and in bencode also port 1. It
// drops an entry that is not a peer, but a list in which no entry is a peer is an error. It removes
// your own endpoints and all repeated endpoints from the peers, and works out [Reply.Endpoints] and
// [Reply.Sample].
//
// The interval is [MinInterval] to [MaxInterval]. In JSON, which only native trackers send, it is at
// least one second. An empty body is an error, although in text it means a track without other peers.
func (r *Request) DecodeReply(body []byte, local netip.AddrPort) (*Reply, error) {
	reply := &Reply{Key: r.Key, Interval: DefaultInterval, Count: -1, ownID: r.ID}
	shortest := MinInterval
	var err error
	switch body = trimLeft(body); {
	case len(body) == 0:
		err = errors.New("not a tracker's reply: it is empty")
	case body[0] == 'd':
		err = reply.readBencode(body)
	case body[0] == '{':
		err = reply.readJSON(body)
		shortest = time.Second
	default:
		err = reply.readText(body)
	}
	if err != nil {
		return nil, err
	}
	reply.Interval = min(max(reply.Interval, shortest), MaxInterval)
	reply.finish(r, local)
	return reply, nil
}

// DecodeRefusal returns the refusal in body, which is bencode or JSON. It returns nil if body is not a
// refusal.
func DecodeRefusal(body []byte) *RefusalError {
	_, err := DecodeTracks(body) // it looks for a refusal before it looks for tracks
	refusal, _ := errors.AsType[*RefusalError](err)
	return refusal
}

// trimLeft drops a byte order mark and white space, which some scripts send before a reply.
func trimLeft(body []byte) []byte {
	return bytes.TrimLeft(bytes.TrimPrefix(body, []byte("\ufeff")), " \t\r\n")
}

// readText refuses a body if one line is not an endpoint. The other formats need not be that strict,
// because their fields show that the body is a reply.
func (r *Reply) readText(body []byte) error {
	for line := range strings.Lines(string(body)) {
		if line = strings.TrimSpace(line); line == "" {
			continue
		}
		e, ok := parsePeer(line)
		if !ok {
			return errors.New("not a tracker's reply: " + Clean(Quote(line)))
		}
		r.addPeer(e, ID{}, 1)
	}
	return nil
}

func (r *Reply) readJSON(body []byte) error {
	d, err := decodeJSON(body)
	if err != nil {
		return fmt.Errorf("not a tracker's reply: %w", err)
	}
	if err := refusalInJSON(d); err != nil {
		return err
	}
	peers, given := d["peers"]
	if !given {
		return errors.New("not a tracker's reply: it has no peers")
	}
	if s, _ := d["you"].(string); s != "" {
		you, ok := parsePeer(s)
		if !ok {
			return fmt.Errorf("reply: you: %s is not an endpoint", Quote(s))
		}
		r.setYou(you)
	}
	r.setInterval(d)
	ttl, _ := numeric(d["ttl"])
	r.TTL = duration(ttl)
	if n, ok := numeric(d["count"]); ok {
		r.Count = clampCount(n)
	}
	r.setLabels(peers, d["labels"])
	return r.addList("peers", peers, 1)
}

func (r *Reply) readBencode(body []byte) error {
	d, err := decodeBencode(body)
	if err != nil {
		return err
	}
	if err := refusalInBencode(d); err != nil {
		return err
	}
	if s, ok := d["warning message"].(string); ok {
		r.Warning = Clean(s)
	}
	if d["interval"] == nil && d["peers"] == nil && d["peers6"] == nil {
		return errors.New("not a tracker's reply: it has neither interval nor peers")
	}
	r.setInterval(d)
	minInterval, _ := numeric(d["min interval"])
	r.Interval = max(r.Interval, duration(minInterval))
	if n, ok := countIn(d); ok {
		r.Count = n
	}
	if s, ok := d["external ip"].(string); ok {
		a, _ := netip.AddrFromSlice([]byte(s))
		r.setYou(netip.AddrPortFrom(a, 0))
	}
	for _, p := range []struct {
		name string
		size int // of an address
	}{{"peers", 4}, {"peers6", 16}} {
		if records, ok := d[p.name].(string); ok {
			err = r.addRecords(p.name, records, p.size)
		} else {
			err = r.addList(p.name, d[p.name], 2)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func (r *Reply) setYou(e netip.AddrPort) {
	if e = Canonical(e); canDial(e, 0) {
		r.You = e
	}
}

func (r *Reply) setInterval(d map[string]any) {
	if n, _ := numeric(d["interval"]); n > 0 {
		r.Interval = duration(n)
	}
}

// addPeer adds an entry of the reply to its peers, or only counts it if it cannot be dialled. minPort
// is the lowest port that a peer may have.
func (r *Reply) addPeer(e netip.AddrPort, id ID, minPort uint16) {
	r.entries++
	e = Canonical(e)
	if !canDial(e, minPort) {
		r.undialable++
		return
	}
	r.Peers = append(r.Peers, e)
	if id != (ID{}) && id == r.ownID {
		r.byOwnID = append(r.byOwnID, e)
	}
}

// canDial reports whether e can be the endpoint of a peer.
func canDial(e netip.AddrPort, minPort uint16) bool {
	return e.Port() >= minPort && e.Addr().IsValid() && !e.Addr().IsUnspecified() && !e.Addr().IsMulticast()
}

// addRecords adds peers in the compact form (BEP 23, BEP 7). Each record is an address of size bytes
// and a port of two.
func (r *Reply) addRecords(name, records string, size int) error {
	if len(records)%(size+2) != 0 {
		return fmt.Errorf("reply: %s has %d bytes, which is not a multiple of %d", name, len(records), size+2)
	}
	for b := range slices.Chunk([]byte(records), size+2) {
		a, _ := netip.AddrFromSlice(b[:size])
		r.addPeer(netip.AddrPortFrom(a, binary.BigEndian.Uint16(b[size:])), ID{}, 2)
	}
	return nil
}

// addList adds peers from a list of texts or dictionaries. The ip in a dictionary may be a host name
// (BEP 3).
func (r *Reply) addList(name string, v any, minPort uint16) error {
	list, ok := listOf(v)
	if !ok {
		return fmt.Errorf("reply: %s is neither a string nor a list", name)
	}
	hasPeer := false
	for _, v := range list {
		var e netip.AddrPort
		var id ID
		switch v := v.(type) {
		case string:
			e, ok = parsePeer(v)
			hasPeer = hasPeer || ok
		case map[string]any:
			e, id = peerIn(v)
			hasPeer = true
		}
		r.addPeer(e, id, minPort)
	}
	if len(list) > 0 && !hasPeer {
		return fmt.Errorf("reply: %s: none of %d entries is a peer", name, len(list))
	}
	return nil
}

// parsePeer reads IP:PORT. HOST:PORT is a peer too: for it parsePeer returns the zero endpoint and
// true.
func parsePeer(s string) (netip.AddrPort, bool) {
	if e, err := netip.ParseAddrPort(s); err == nil {
		return e, true
	}
	host, port, _ := net.SplitHostPort(s)
	badHost := strings.ContainsFunc(host, func(c rune) bool {
		return c != '.' && c != '-' && c != '_' && !unicode.IsLetter(c) && !unicode.IsDigit(c)
	})
	return netip.AddrPort{}, isNumber(port) && host != "" && !badHost
}

// peerIn reads a peer that is a dictionary. If it has no address or no port, the endpoint cannot be
// dialled.
func peerIn(d map[string]any) (e netip.AddrPort, id ID) {
	ip, _ := d["ip"].(string)
	a, _ := netip.ParseAddr(ip) // invalid for a host name
	port, _ := numeric(d["port"])
	if port < 0 || port > 65535 || port != math.Trunc(port) {
		port = 0
	}
	if s, _ := d["peer id"].(string); len(s) == len(id) {
		copy(id[:], s)
	}
	return netip.AddrPortFrom(a, uint16(port)), id
}

// listOf reads a list. Some languages write a list as a dictionary whose keys are numbers, or an empty
// list as null.
func listOf(v any) (list []any, ok bool) {
	switch v := v.(type) {
	case nil:
		return nil, true
	case []any:
		return v, true
	case map[string]any:
		for _, e := range v {
			list = append(list, e)
		}
		return list, true
	}
	return nil, false
}

// DecodeTracks reads the body of a scrape or an index, in bencode or JSON. It skips an entry that is
// not a track. Tracks in bencode are returned sorted by key, and tracks in JSON in their order. If the
// body is a refusal, the error is a [*RefusalError].
func DecodeTracks(body []byte) ([]Track, error) {
	body = trimLeft(body)
	if len(body) > 0 && body[0] == '{' {
		return decodeIndex(body)
	}
	d, err := decodeBencode(body)
	if err != nil {
		return nil, err
	}
	if err := refusalInBencode(d); err != nil {
		return nil, err
	}
	files, ok := d["files"].(map[string]any)
	// Some languages write an empty dictionary as an empty list.
	if list, isList := d["files"].([]any); !ok && (!isList || len(list) > 0) {
		return nil, errors.New("not a scrape: it has no files")
	}
	var tracks []Track
	for key, v := range files {
		f, ok := v.(map[string]any)
		k := KeyOf([]byte(key))
		if !ok || k.Check() != nil {
			continue
		}
		count, _ := countIn(f)
		tracks = append(tracks, Track{Key: k, Count: count})
	}
	slices.SortFunc(tracks, byKey)
	return tracks, nil
}

func decodeIndex(body []byte) ([]Track, error) {
	d, err := decodeJSON(body)
	if err != nil {
		return nil, fmt.Errorf("not a tracker's index: %w", err)
	}
	if err := refusalInJSON(d); err != nil {
		return nil, err
	}
	v, given := d["tracks"]
	list, ok := listOf(v)
	if !given || !ok {
		return nil, errors.New("not a tracker's index: it has no tracks")
	}
	var tracks []Track
	for _, v := range list {
		t, _ := v.(map[string]any)
		var raw []byte
		if s, ok := t["key"].(string); ok {
			raw = []byte(s)
		} else if s, ok := t["key_escaped"].(string); ok {
			raw, _ = unescape([]byte(s))
		}
		if k := KeyOf(raw); k.Check() == nil {
			count, _ := numeric(t["count"])
			tracks = append(tracks, Track{Key: k, Count: clampCount(count)})
		}
	}
	return tracks, nil
}

// noReason stands for a reason of which nothing can be shown.
const noReason = "it gives no reason"

// refusalInJSON returns a [*RefusalError] if d is a refusal, and nil otherwise.
func refusalInJSON(d map[string]any) error {
	if reason, _ := d["error"].(string); reason != "" {
		return &RefusalError{Status: 200, Reason: cmp.Or(Clean(reason), noReason)}
	}
	return nil
}

// refusalInBencode returns a [*RefusalError] if d is a refusal, and nil otherwise.
func refusalInBencode(d map[string]any) error {
	reason, ok := d["failure reason"].(string)
	if !ok {
		return nil
	}
	const day = 24 * 60
	minutes, _ := numeric(d["retry in"]) // BEP 31
	if d["retry in"] == "never" {
		minutes = day
	}
	return &RefusalError{Status: 200, Never: d["retry in"] == "never", Reason: cmp.Or(Clean(reason), noReason), Retry: duration(60 * min(minutes, day))}
}

// decodeJSON decodes one JSON object. It does not convert numbers, because numeric does that.
func decodeJSON(b []byte) (map[string]any, error) {
	if jsonValues(b) > maxValues {
		return nil, fmt.Errorf("more than %d values", maxValues)
	}
	d := json.NewDecoder(bytes.NewReader(b))
	d.UseNumber()
	var object map[string]any
	if err := d.Decode(&object); err != nil {
		return nil, err
	}
	if _, err := d.Token(); err != io.EOF {
		return nil, errors.New("more than one value")
	}
	return object, nil
}

// jsonValues returns an upper bound for the number of values in b. A value can begin at the start of
// b, after each [ or {, and after each comma.
func jsonValues(b []byte) int {
	n, quoted := 1, false
	for i := 0; i < len(b); i++ {
		switch c := b[i]; {
		case c == '"':
			quoted = !quoted
		case quoted && c == '\\':
			i++
		case !quoted && (c == ',' || c == '{' || c == '['):
			n++
		}
	}
	return n
}

// countIn returns the number of peers that d reports, as the sum of two fields. ok is false if d has
// neither field.
func countIn(d map[string]any) (n int, ok bool) {
	complete, ok1 := numeric(d["complete"])
	incomplete, ok2 := numeric(d["incomplete"])
	return clampCount(clamp(complete) + clamp(incomplete)), ok1 || ok2
}

// numeric reads a number as trackers write it: an integer, or decimal digits in a string. In JSON a
// number may also have a fraction or an exponent (RFC 8259).
func numeric(v any) (float64, bool) {
	var text string
	switch v := v.(type) {
	case int64:
		return float64(v), true
	case json.Number:
		text = v.String()
	case string:
		if !isNumber(v) {
			return 0, false
		}
		text = v
	default:
		return 0, false
	}
	n, _ := strconv.ParseFloat(text, 64) // infinity if the number is too large
	return n, true
}

// clamp limits a number from the network to 0 to 2^30, so that sums of numbers do not overflow.
func clamp(n float64) float64 { return min(max(n, 0), 1<<30) }

func clampCount(n float64) int { return int(clamp(n)) }

// duration returns n seconds, after clamp.
func duration(n float64) time.Duration { return time.Duration(clamp(n) * float64(time.Second)) }
