// Package output writes results: as a table for people, as JSON for programs, and as bare lines for the
// shell. Its structs define the JSON of `-o json`, which has to stay stable. So they are separate from
// the types of package announce, which may change.
package output

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/netip"
	"slices"
	"strconv"
	"time"

	"github.com/olekukonko/tablewriter"
	"github.com/olekukonko/tablewriter/renderer"
	"github.com/olekukonko/tablewriter/tw"

	"ntrack/announce"
	"ntrack/announce/wire"
)

// A Format is how a result is written: the value of -o.
type Format string

// The formats.
const (
	Table Format = "table"
	JSON  Format = "json"
	Text  Format = "text" // one bare endpoint or key per line
)

// Track is the result of `ntrack announce`, `ntrack list KEY` and `ntrack watch --once`.
type Track struct {
	Key     string `json:"key"`
	Tracker string `json:"tracker"`
	// Trackers are all trackers that answered, if there are two or more. Tracker is the first of them.
	Trackers []string `json:"trackers,omitempty"`
	// You is the endpoint under which the tracker lists you. It is null if the tracker does not list
	// you, or does not report the endpoint.
	You *string `json:"you"`
	// Endpoints are all your endpoints, You first, if there are two or more.
	Endpoints []string `json:"endpoints,omitempty"`
	// Interval and TTL are in seconds, or null if the tracker does not report them.
	Interval *int `json:"interval"`
	TTL      *int `json:"ttl"`
	// Count is the number of peers of the track, you included, or null if the tracker does not report
	// it.
	Count *int `json:"count"`
	// Peers are the other peers of the track, sorted.
	Peers []string `json:"peers"`
	// Labels are the labels of Peers, in the same order, and null for a peer without one. They are only
	// there if a peer has one. They come from strangers: they have only passed [wire.Clean].
	Labels []*string `json:"labels,omitempty"`
}

// Index is the result of `ntrack list` without a KEY.
type Index struct {
	Tracker  string       `json:"tracker"`
	Trackers []string     `json:"trackers,omitempty"` // as in Track
	Tracks   []IndexTrack `json:"tracks"`
}

// IndexTrack is one track of an Index. Count is the number of its peers.
type IndexTrack struct {
	Key   string `json:"key"`
	Count int    `json:"count"`
}

// Change is one peer that has joined or left. `ntrack watch -o json` prints it.
type Change struct {
	Event string `json:"event"` // "join" or "leave"
	Peer  string `json:"peer"`
}

// ExecInput is the standard input of the command of `ntrack watch --exec`.
type ExecInput struct {
	// Event is "join" or "leave" if exactly one Peer has joined or left since the last run that
	// succeeded. Otherwise Event is "peers" and Peer is null.
	Event string  `json:"event"`
	Peer  *string `json:"peer"`
	Key   string  `json:"key"`
	// Tracker is the first tracker. Trackers are all trackers, if there are two or more.
	Tracker  string   `json:"tracker"`
	Trackers []string `json:"trackers,omitempty"`
	// Changes are all changes since the last run that succeeded: first the peers that left, then the
	// peers that joined. Peers are all other peers of the track now, sorted.
	Changes []Change `json:"changes"`
	Peers   []string `json:"peers"`
}

// Barrier is the result of `ntrack watch --min N`, which waits for N peers.
type Barrier struct {
	// Rank is the index of your own endpoint in Peers, from 0. It is null if you did not join.
	Rank *int `json:"rank"`
	// Size is the number of Peers.
	Size int `json:"size"`
	// Peers are all peers, you included. Every peer gets them in the same order.
	Peers []string `json:"peers"`
}

// WriteReply writes the peers of a track. A table and JSON also have your own endpoints, and the labels of
// peers if there are any. trackers are the trackers that answered; there must be at least one.
func WriteReply(w io.Writer, f Format, trackers []announce.Tracker, r *announce.Reply) error {
	peers := slices.SortedFunc(slices.Values(r.Peers), netip.AddrPort.Compare)
	switch f {
	case JSON:
		out := Track{Key: r.Key.String(), Tracker: trackers[0].String(), Trackers: omitSingle(trackerURLs(trackers)),
			Endpoints: omitSingle(endpointStrings(r.Endpoints)), Interval: seconds(r.Interval), TTL: seconds(r.TTL), Peers: endpointStrings(peers), Labels: labelsOf(peers, r.Labels)}
		if len(r.Endpoints) > 0 {
			you := r.Endpoints[0].String()
			out.You = &you
		}
		if r.Count >= 0 {
			out.Count = &r.Count
		}
		return writeJSON(w, out)
	case Text:
		return writeLines(w, endpointStrings(peers))
	}
	header, notes, labels := []string{"PEER", "SCOPE"}, len(r.Endpoints) > 0, false
	if notes {
		header = append(header, "NOTE")
	}
	for _, p := range peers {
		labels = labels || r.Labels[p] != ""
	}
	if labels { // the last column, because some scripts are written from right to left
		header = append(header, "LABEL")
	}
	var rows [][]string
	add := func(p netip.AddrPort, note string) {
		row := []string{p.String(), wire.ScopeOf(p.Addr()).String()}
		if notes {
			row = append(row, note)
		}
		if labels {
			row = append(row, labelText(r.Labels[p]))
		}
		rows = append(rows, row)
	}
	for _, e := range r.Endpoints {
		add(e, "you")
	}
	for _, p := range peers {
		add(p, "")
	}
	return writeTable(w, header, rows)
}

// labelsOf returns the label of each peer, and nil if no peer has one.
func labelsOf(peers []netip.AddrPort, labels map[netip.AddrPort]string) []*string {
	var out []*string
	for i, p := range peers {
		if label := labels[p]; label != "" {
			if out == nil {
				out = make([]*string, len(peers))
			}
			out[i] = &label
		}
	}
	return out
}

// WriteIndex writes the tracks of an index. trackers are the trackers that answered; there must be at
// least one.
func WriteIndex(w io.Writer, f Format, trackers []announce.Tracker, tracks []announce.Track) error {
	out := Index{Tracker: trackers[0].String(), Trackers: omitSingle(trackerURLs(trackers)), Tracks: []IndexTrack{}}
	var keys []string
	var rows [][]string
	for _, tr := range tracks {
		key := tr.Key.String()
		out.Tracks = append(out.Tracks, IndexTrack{key, tr.Count})
		keys = append(keys, key)
		rows = append(rows, []string{key, strconv.Itoa(tr.Count)})
	}
	switch f {
	case JSON:
		return writeJSON(w, out)
	case Text:
		return writeLines(w, keys)
	}
	return writeTable(w, []string{"KEY", "PEERS"}, rows)
}

// WriteChange writes a peer that has joined or left as one line, in one write: "join IP:PORT", or a
// JSON object.
func WriteChange(w io.Writer, f Format, event announce.EventType, peer netip.AddrPort) error {
	if f == JSON {
		return writeJSON(w, Change{string(event), peer.String()})
	}
	_, err := fmt.Fprintf(w, "%s %s\n", event, peer)
	return err
}

// NewExecInput compares two sorted lists of peers. before is the list of the last run that succeeded,
// or nil if there was none.
func NewExecInput(trackers []announce.Tracker, key announce.Key, before, now []netip.AddrPort) ExecInput {
	in := ExecInput{Event: string(announce.EventPeers), Key: key.String(), Tracker: trackers[0].String(),
		Trackers: omitSingle(trackerURLs(trackers)), Changes: []Change{}, Peers: endpointStrings(now)}
	addMissing := func(event announce.EventType, list, other []netip.AddrPort) {
		for _, p := range list {
			if _, found := slices.BinarySearchFunc(other, p, netip.AddrPort.Compare); !found {
				in.Changes = append(in.Changes, Change{string(event), p.String()})
			}
		}
	}
	addMissing(announce.EventLeave, before, now)
	addMissing(announce.EventJoin, now, before)
	if before != nil && len(in.Changes) == 1 {
		in.Event, in.Peer = in.Changes[0].Event, &in.Changes[0].Peer
	}
	return in
}

// WriteExecInput writes a JSON object on one line.
func WriteExecInput(w io.Writer, in ExecInput) error { return writeJSON(w, in) }

// WriteBarrier writes all peers of a barrier that is complete. rank is the index of your own endpoint
// in peers, or -1 if you did not join.
func WriteBarrier(w io.Writer, f Format, rank int, peers []netip.AddrPort) error {
	switch f {
	case JSON:
		out := Barrier{Size: len(peers), Peers: endpointStrings(peers)}
		if rank >= 0 {
			out.Rank = &rank
		}
		return writeJSON(w, out)
	case Text:
		return writeLines(w, endpointStrings(peers))
	}
	var rows [][]string
	for i, p := range peers {
		note := ""
		if i == rank {
			note = "you"
		}
		rows = append(rows, []string{strconv.Itoa(i), p.String(), wire.ScopeOf(p.Addr()).String(), note})
	}
	return writeTable(w, []string{"RANK", "PEER", "SCOPE", "NOTE"}, rows)
}

func endpointStrings(endpoints []netip.AddrPort) []string {
	out := make([]string, 0, len(endpoints)) // not nil, which JSON writes as null
	for _, e := range endpoints {
		out = append(out, e.String())
	}
	return out
}

func trackerURLs(trackers []announce.Tracker) []string {
	var out []string
	for _, t := range trackers {
		out = append(out, t.String())
	}
	return out
}

// omitSingle returns nil for a list of fewer than two elements. JSON then omits the list.
func omitSingle(list []string) []string {
	if len(list) < 2 {
		return nil
	}
	return list
}

// seconds returns nil, which is null in JSON, for a duration that the tracker did not report.
func seconds(d time.Duration) *int {
	if d <= 0 {
		return nil
	}
	s := int(d / time.Second)
	return &s
}

func writeLines(w io.Writer, lines []string) error {
	var b []byte
	for _, l := range lines {
		b = append(append(b, l...), '\n')
	}
	_, err := w.Write(b)
	return err
}

func writeJSON(w io.Writer, v any) error {
	e := json.NewEncoder(w)
	e.SetEscapeHTML(false)
	return e.Encode(v)
}

// writeTable writes a header and rows, without borders. If there are no rows, it writes nothing.
func writeTable(w io.Writer, header []string, rows [][]string) error {
	if len(rows) == 0 {
		return nil
	}
	var b bytes.Buffer
	t := tablewriter.NewTable(&b,
		tablewriter.WithRenderer(renderer.NewBlueprint(tw.Rendition{
			Borders:  tw.BorderNone,
			Settings: tw.Settings{Lines: tw.LinesNone, Separators: tw.SeparatorsNone},
		})),
		tablewriter.WithHeaderAlignment(tw.AlignLeft),
		tablewriter.WithRowAlignment(tw.AlignLeft),
		tablewriter.WithHeaderAutoWrap(tw.WrapNone),
		tablewriter.WithRowAutoWrap(tw.WrapNone),
		tablewriter.WithPadding(tw.Padding{Left: "", Right: "   ", Overwrite: true}),
		tablewriter.WithTrimSpace(tw.Off), // a key may begin or end with a space
	)
	t.Header(header)
	if err := t.Bulk(rows); err != nil {
		return err
	}
	if err := t.Render(); err != nil {
		return err
	}
	var out []byte
	for line := range bytes.Lines(b.Bytes()) {
		out = append(append(out, bytes.TrimRight(line, " \n")...), '\n') // without the padding of the last column
	}
	_, err := w.Write(out)
	return err
}
