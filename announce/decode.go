package announce

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"
)

// defaultInterval is taken where a tracker names no interval.
const defaultInterval = 30 * time.Minute

// Interval bounds: what a tracker asks for beyond them is clamped, so that none can make a client
// hammer it or fall silent. A native tracker, whose ttl follows its interval, may ask for as
// little as a second.
const (
	MinInterval = 10 * time.Second
	MaxInterval = time.Hour
)

// DecodeReply reads a tracker's reply in any of the three formats, told apart by how they begin. A
// refusal inside it is returned as a [*Failure]. Peers that nobody could dial are dropped: those
// without an IP address, with port 0, and in bencode with port 1. The interval is clamped to
// [MinInterval] (in JSON, which only native trackers speak, to a second) and [MaxInterval]. An
// empty body is an error, although it is how a native tracker says in text that nobody is there.
func DecodeReply(body []byte) (*Reply, error) {
	r := &Reply{Interval: defaultInterval, Count: -1}
	least := MinInterval
	var err error
	switch {
	case len(body) > 0 && body[0] == 'd':
		err = r.decodeBencode(body)
	case len(body) > 0 && body[0] == '{':
		err = r.decodeJSON(body)
		least = time.Second
	case len(body) == 0:
		err = errors.New("not a tracker's reply: it is empty")
	default:
		err = r.decodeText(body)
	}
	if err != nil {
		return nil, err
	}
	r.Interval = min(max(r.Interval, least), MaxInterval)
	return r, nil
}

func (r *Reply) add(e netip.AddrPort, id ID, leastPort uint16) {
	r.given++
	if e = Canonical(e); usable(e, leastPort) {
		r.Peers = append(r.Peers, Peer{Endpoint: e, ID: id})
	}
}

// usable says that somebody could dial e.
func usable(e netip.AddrPort, leastPort uint16) bool {
	return e.Port() >= leastPort && e.Addr().IsValid() && !e.Addr().IsUnspecified() && !e.Addr().IsMulticast()
}

func (r *Reply) decodeText(body []byte) error {
	for line := range strings.Lines(string(body)) {
		e, err := netip.ParseAddrPort(strings.TrimSpace(line))
		if err != nil {
			return errors.New("not a tracker's reply: " + Clean(quote(line)))
		}
		r.add(e, ID{}, 1)
	}
	return nil
}

func (r *Reply) decodeJSON(body []byte) error {
	var j struct {
		Error      string   `json:"error"`
		Key        *string  `json:"key"`
		KeyEscaped string   `json:"key_escaped"`
		You        string   `json:"you"`
		Interval   int64    `json:"interval"`
		TTL        int64    `json:"ttl"`
		Count      *int     `json:"count"`
		Peers      []string `json:"peers"`
	}
	if err := unmarshal(body, &j); err != nil {
		return fmt.Errorf("not a tracker's reply: %w", err)
	}
	switch {
	case j.Error != "":
		return &Failure{Status: 200, Reason: Clean(j.Error)}
	case j.Peers == nil:
		return errors.New("not a tracker's reply: no peers in it")
	}
	r.Key = jsonKey(j.Key, j.KeyEscaped)
	if j.You != "" {
		you, err := netip.ParseAddrPort(j.You)
		if err != nil {
			return fmt.Errorf("reply: you: %w", err)
		}
		r.You = Canonical(you)
	}
	if j.Interval > 0 {
		r.Interval = clampSeconds(j.Interval)
	}
	r.TTL = clampSeconds(j.TTL)
	if j.Count != nil {
		r.Count = max(*j.Count, 0)
	}
	for _, p := range j.Peers {
		e, err := netip.ParseAddrPort(p)
		if err != nil {
			return fmt.Errorf("reply: peers: %w", err)
		}
		r.add(e, ID{}, 1)
	}
	return nil
}

// unmarshal refuses what would take much more memory than its bytes.
func unmarshal(body []byte, to any) error {
	if bytes.Count(body, []byte("{")) > maxValues/4 {
		return fmt.Errorf("more than %d objects", maxValues/4)
	}
	return json.Unmarshal(body, to)
}

func jsonKey(key *string, escaped string) Key {
	if key != nil {
		return KeyOf([]byte(*key))
	}
	raw, _ := unescape([]byte(escaped))
	return KeyOf(raw)
}

func (r *Reply) decodeBencode(body []byte) error {
	d, err := decodeBencode(body)
	if err != nil {
		return err
	}
	if err := failureIn(d); err != nil {
		return err
	}
	if s, ok := d["warning message"].(string); ok {
		r.Warning = Clean(s)
	}
	if d["interval"] == nil && d["peers"] == nil && d["peers6"] == nil {
		return errors.New("not a tracker's reply: neither interval nor peers in it")
	}
	if n, ok := d["interval"].(int64); ok && n > 0 {
		r.Interval = clampSeconds(n)
	}
	if n, ok := d["min interval"].(int64); ok {
		r.Interval = max(r.Interval, clampSeconds(n))
	}
	complete, ok1 := d["complete"].(int64)
	incomplete, ok2 := d["incomplete"].(int64)
	if ok1 || ok2 {
		r.Count = clampCount(complete) + clampCount(incomplete)
	}
	if s, ok := d["external ip"].(string); ok {
		if a, ok := netip.AddrFromSlice([]byte(s)); ok {
			r.You = Canonical(netip.AddrPortFrom(a, 0))
		}
	}
	if err := r.addPeers("peers", d["peers"], 4); err != nil {
		return err
	}
	return r.addPeers("peers6", d["peers6"], 16)
}

// failureIn is the refusal that a bencoded reply may be.
func failureIn(d map[string]any) error {
	reason, ok := d["failure reason"].(string)
	if !ok {
		return nil
	}
	f := &Failure{Status: 200, Reason: Clean(reason)}
	if n, ok := d["retry in"].(int64); ok { // BEP 31; "never" is a string
		f.Retry = time.Duration(min(max(n, 0), 24*60)) * time.Minute
	}
	return f
}

// addPeers takes both forms a tracker may use: records of an address of size bytes and a port, or
// a list of dictionaries (whose ip may be a host name, by BEP 3: those are dropped).
func (r *Reply) addPeers(name string, v any, size int) error {
	switch v := v.(type) {
	case nil:
	case string:
		if len(v)%(size+2) != 0 {
			return fmt.Errorf("reply: %s of %d bytes: no multiple of %d", name, len(v), size+2)
		}
		for b := range slices.Chunk([]byte(v), size+2) {
			a, _ := netip.AddrFromSlice(b[:size])
			r.add(netip.AddrPortFrom(a, binary.BigEndian.Uint16(b[size:])), ID{}, 2)
		}
	case []any:
		for _, e := range v {
			d, ok := e.(map[string]any)
			if !ok {
				return fmt.Errorf("reply: %s: an entry is no dictionary", name)
			}
			ip, _ := d["ip"].(string)
			port, _ := d["port"].(int64)
			a, err := netip.ParseAddr(ip)
			if err != nil || port < 0 || port > 65535 {
				r.given++
				continue
			}
			var id ID
			if s, _ := d["peer id"].(string); len(s) == len(id) {
				copy(id[:], s)
			}
			r.add(netip.AddrPortFrom(a, uint16(port)), id, 2)
		}
	default:
		return fmt.Errorf("reply: %s is neither a string nor a list", name)
	}
	return nil
}

// DecodeTracks reads a scrape or an index, in bencode or JSON. A refusal inside it is returned as
// a [*Failure].
func DecodeTracks(body []byte) ([]Track, error) {
	if len(body) > 0 && body[0] == '{' {
		var j struct {
			Error  string `json:"error"`
			Tracks []struct {
				Key        *string `json:"key"`
				KeyEscaped string  `json:"key_escaped"`
				Count      int     `json:"count"`
			} `json:"tracks"`
		}
		if err := unmarshal(body, &j); err != nil {
			return nil, fmt.Errorf("not a tracker's index: %w", err)
		}
		switch {
		case j.Error != "":
			return nil, &Failure{Status: 200, Reason: Clean(j.Error)}
		case j.Tracks == nil:
			return nil, errors.New("not a tracker's index: no tracks in it")
		}
		var tracks []Track
		for _, t := range j.Tracks {
			tracks = append(tracks, Track{Key: jsonKey(t.Key, t.KeyEscaped), Count: max(t.Count, 0)})
		}
		return tracks, nil
	}
	d, err := decodeBencode(body)
	if err != nil {
		return nil, err
	}
	if err := failureIn(d); err != nil {
		return nil, err
	}
	files, ok := d["files"].(map[string]any)
	if !ok {
		return nil, errors.New("not a scrape: no files in it")
	}
	var tracks []Track
	for key, v := range files {
		f, _ := v.(map[string]any)
		complete, _ := f["complete"].(int64)
		incomplete, _ := f["incomplete"].(int64)
		tracks = append(tracks, Track{Key: KeyOf([]byte(key)), Count: clampCount(complete) + clampCount(incomplete)})
	}
	slices.SortFunc(tracks, func(a, b Track) int { return bytes.Compare(a.Key.raw, b.Key.raw) })
	return tracks, nil
}

// clampSeconds keeps a number from the network from overflowing a duration.
func clampSeconds(n int64) time.Duration {
	return time.Duration(min(max(n, 0), 1<<30)) * time.Second
}

func clampCount(n int64) int { return int(min(max(n, 0), 1<<30)) }
