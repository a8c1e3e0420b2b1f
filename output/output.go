// Package output turns results into bytes: a table for people, JSON for programs, bare lines for
// the shell. Its structs are what `-o json` promises; they are apart from package announce's, so
// that neither changes the other by accident.
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
	// Trackers are those that answered, where several have; Tracker is the first of them.
	Trackers []string `json:"trackers,omitempty"`
	// You is the endpoint the tracker has listed; null when none is or the tracker does not tell.
	You *string `json:"you"`
	// Endpoints are all that are listed for you, You first, where there is more than one.
	Endpoints []string `json:"endpoints,omitempty"`
	// Interval and TTL are in seconds, null where the tracker does not tell.
	Interval *int `json:"interval"`
	TTL      *int `json:"ttl"`
	// Count is how many peers the track has; null where the tracker does not tell.
	Count *int `json:"count"`
	// Peers are the others, sorted.
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

// WriteReply writes the peers of a track, as the trackers (one at least) told them, and where a
// table has room for it also yourself.
func WriteReply(w io.Writer, f Format, trackers []announce.Tracker, r *announce.Reply) error {
	peers := make([]netip.AddrPort, 0, len(r.Peers))
	for _, p := range r.Peers {
		peers = append(peers, p.Endpoint)
	}
	slices.SortFunc(peers, netip.AddrPort.Compare)
	return writePeers(w, f, trackers, r, peers)
}

// WritePeers writes the peers a watch has come to see under key.
func WritePeers(w io.Writer, f Format, trackers []announce.Tracker, key announce.Key, peers []netip.AddrPort) error {
	return writePeers(w, f, trackers, &announce.Reply{Key: key, Count: len(peers)}, peers)
}

func writePeers(w io.Writer, f Format, trackers []announce.Tracker, r *announce.Reply, peers []netip.AddrPort) error {
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
		rows = append(rows, []string{e.String(), announce.ScopeOf(e.Addr()).String(), "you"})
	}
	for _, p := range peers {
		rows = append(rows, []string{p.String(), announce.ScopeOf(p.Addr()).String(), ""})
	}
	if len(r.Endpoints) > 0 {
		return writeTable(w, []string{"PEER", "SCOPE", "NOTE"}, rows)
	}
	for i := range rows {
		rows[i] = rows[i][:2]
	}
	return writeTable(w, []string{"PEER", "SCOPE"}, rows)
}

// WriteIndex writes the tracks of trackers.
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

// WriteEvent writes one change as one line, in one write: "join IP:PORT", or an object.
func WriteEvent(w io.Writer, f Format, event announce.EventType, peer netip.AddrPort) error {
	if f == JSON {
		return writeJSON(w, Event{string(event), peer.String()})
	}
	_, err := fmt.Fprintf(w, "%s %s\n", event, peer)
	return err
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

// several is the list where it says more than its first element does.
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

// writeTable writes upper-case headers and rows, without borders; nothing at all without rows.
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
		out = append(append(out, bytes.TrimRight(line, " \n")...), '\n') // the last column is padded too
	}
	_, err := w.Write(out)
	return err
}
