// Package output turns results into bytes: a table for people, JSON for programs, bare lines for the
// shell. Its structs are the promise of `-o json`. They are separate from the types of package
// announce, so a change there does not change the JSON by accident.
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

// A Format is how results are written.
type Format string

// The formats.
const (
	Table Format = "table"
	JSON  Format = "json"
	Text  Format = "text" // one bare endpoint or key per line
)

// Track is the result of announce and of list KEY.
type Track struct {
	Key     string `json:"key"`
	Tracker string `json:"tracker"`
	// Trackers are all trackers that answered, if there are several. Tracker is the first of them.
	Trackers []string `json:"trackers,omitempty"`
	// You is your endpoint as the tracker lists it. It is null if the tracker lists none or does not
	// report it.
	You *string `json:"you"`
	// Endpoints are all your endpoints, You first, if there is more than one.
	Endpoints []string `json:"endpoints,omitempty"`
	// Interval and TTL are in seconds, or null if the tracker does not report them.
	Interval *int `json:"interval"`
	TTL      *int `json:"ttl"`
	// Count is the number of peers of the track, or null if the tracker does not report it.
	Count *int `json:"count"`
	// Peers are the other peers, sorted.
	Peers []string `json:"peers"`
}

// Index is the result of list without a KEY.
type Index struct {
	Tracker  string       `json:"tracker"`
	Trackers []string     `json:"trackers,omitempty"` // as in Track
	Tracks   []IndexTrack `json:"tracks"`
}

// IndexTrack is one track of an Index.
type IndexTrack struct {
	Key   string `json:"key"`
	Count int    `json:"count"`
}

// Event is a change, as watch -o json prints it.
type Event struct {
	Event string `json:"event"`
	Peer  string `json:"peer"`
}

// Change is what watch --exec writes to the standard input of its command.
type Change struct {
	// Event is join or leave if one Peer has joined or left. It is peers, and Peer is null, for the
	// first list and for several changes at once.
	Event string  `json:"event"`
	Peer  *string `json:"peer"`
	Key   string  `json:"key"`
	// Tracker is the first tracker. Trackers are all trackers, if there are several.
	Tracker  string   `json:"tracker"`
	Trackers []string `json:"trackers,omitempty"`
	// Changes are all changes since the last run that succeeded, leaves first. Peers is the whole
	// list now, sorted.
	Changes []Event  `json:"changes"`
	Peers   []string `json:"peers"`
}

// Gathering is the result of watch --min.
type Gathering struct {
	// Rank is the index of your own endpoint in Peers, from 0. It is null if you did not join.
	Rank *int `json:"rank"`
	// Size is the number of Peers.
	Size int `json:"size"`
	// Peers are all peers, yourself included. Every member gets them in the same order.
	Peers []string `json:"peers"`
}

// WriteReply writes the peers of a track that the trackers, at least one, have reported. A table and
// JSON also have your own endpoints.
func WriteReply(w io.Writer, f Format, trackers []announce.Tracker, r *announce.Reply) error {
	peers := slices.SortedFunc(slices.Values(r.Peers), netip.AddrPort.Compare)
	switch f {
	case JSON:
		out := Track{Key: r.Key.String(), Tracker: trackers[0].String(), Trackers: several(names(trackers)),
			Endpoints: several(lines(r.Endpoints)), Interval: seconds(r.Interval), TTL: seconds(r.TTL), Peers: lines(peers)}
		if len(r.Endpoints) > 0 {
			you := r.Endpoints[0].String()
			out.You = &you
		}
		if r.Count >= 0 {
			out.Count = &r.Count
		}
		return writeJSON(w, out)
	case Text:
		return writeLines(w, lines(peers))
	}
	var rows [][]string
	for _, e := range r.Endpoints {
		rows = append(rows, []string{e.String(), wire.ScopeOf(e.Addr()).String(), "you"})
	}
	for _, p := range peers {
		rows = append(rows, []string{p.String(), wire.ScopeOf(p.Addr()).String(), ""})
	}
	if len(r.Endpoints) > 0 {
		return writeTable(w, []string{"PEER", "SCOPE", "NOTE"}, rows)
	}
	for i := range rows {
		rows[i] = rows[i][:2]
	}
	return writeTable(w, []string{"PEER", "SCOPE"}, rows)
}

// WriteIndex writes the tracks that trackers, at least one, have.
func WriteIndex(w io.Writer, f Format, trackers []announce.Tracker, tracks []announce.Track) error {
	out := Index{Tracker: trackers[0].String(), Trackers: several(names(trackers)), Tracks: []IndexTrack{}}
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

// WriteEvent writes one change as one line, in one write: "join IP:PORT", or a JSON object.
func WriteEvent(w io.Writer, f Format, event announce.EventType, peer netip.AddrPort) error {
	if f == JSON {
		return writeJSON(w, Event{string(event), peer.String()})
	}
	_, err := fmt.Fprintf(w, "%s %s\n", event, peer)
	return err
}

// NewChange compares two sorted lists of peers. before is nil at the start.
func NewChange(trackers []announce.Tracker, key announce.Key, before, now []netip.AddrPort) Change {
	c := Change{Event: string(announce.EventPeers), Key: key.String(), Tracker: trackers[0].String(),
		Trackers: several(names(trackers)), Changes: []Event{}, Peers: lines(now)}
	differ := func(event announce.EventType, list, other []netip.AddrPort) {
		for _, p := range list {
			if _, both := slices.BinarySearchFunc(other, p, netip.AddrPort.Compare); !both {
				c.Changes = append(c.Changes, Event{string(event), p.String()})
			}
		}
	}
	differ(announce.EventLeave, before, now)
	differ(announce.EventJoin, now, before)
	if before != nil && len(c.Changes) == 1 {
		c.Event, c.Peer = c.Changes[0].Event, &c.Changes[0].Peer
	}
	return c
}

// WriteChange writes a change as a JSON object on one line.
func WriteChange(w io.Writer, c Change) error { return writeJSON(w, c) }

// WriteGathering writes the peers that have met. rank is -1 if you did not join.
func WriteGathering(w io.Writer, f Format, rank int, peers []netip.AddrPort) error {
	switch f {
	case JSON:
		out := Gathering{Size: len(peers), Peers: lines(peers)}
		if rank >= 0 {
			out.Rank = &rank
		}
		return writeJSON(w, out)
	case Text:
		return writeLines(w, lines(peers))
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

func lines(peers []netip.AddrPort) []string {
	out := make([]string, 0, len(peers))
	for _, p := range peers {
		out = append(out, p.String())
	}
	return out
}

func names(trackers []announce.Tracker) []string {
	var out []string
	for _, t := range trackers {
		out = append(out, t.String())
	}
	return out
}

// several is the list, or nil if it has no second element.
func several(list []string) []string {
	if len(list) < 2 {
		return nil
	}
	return list
}

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

// writeTable writes an upper-case header and rows, without borders. Without rows it writes nothing.
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
		tablewriter.WithTrimSpace(tw.Off), // keys may have spaces at their ends
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
		out = append(append(out, bytes.TrimRight(line, " \n")...), '\n') // tablewriter pads the last column, too
	}
	_, err := w.Write(out)
	return err
}
