package commands

import (
	"context"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/urfave/cli/v2"

	"ntrack/announce"
	"ntrack/announce/wire"
	"ntrack/output"
)

// labelWait is how long a look for labels may take. The peers without an answer are written without labels.
const labelWait = 2 * time.Second

// buildLabel reads --label, which becomes the peer id of announces.
func (o *announceOptions) buildLabel(c *cli.Context) error {
	if !c.IsSet("label") {
		return nil
	}
	if o.leave {
		return usage(c, "--label and --leave exclude each other: --port or --from says which peer leaves")
	}
	text := c.String("label")
	var err error
	if o.request.ID, err = announce.ParseLabel(text); err != nil {
		return usage(c, "--label %q: %v; 1 to %d bytes of printable UTF-8 are wanted", shownWhole(text), err, len(wire.ID{}))
	}
	for _, t := range o.trackers {
		if t.Classic() {
			return usage(c, "--label: %s is a BitTorrent tracker, which may know you by it; leave --label out, or name only ntrack trackers", t.HostPort())
		}
	}
	return nil
}

// shownWhole is like shown, but keeps the spaces at the ends, which may be the mistake.
func shownWhole(typed string) string {
	core := strings.Trim(typed, " ")
	if core == "" {
		return strings.Repeat(" ", min(len(typed), 20))
	}
	before, after, _ := strings.Cut(typed, core)
	return before[:min(len(before), 20)] + shown(core) + after[:min(len(after), 20)]
}

// labels finds the labels of peers for a template that uses them. Replies have labels if they are asked
// for, and streams have none. So labels looks for those of new peers, at most once for a list or a change:
// the caller waits, and gets the sum of all later changes.
type labels struct {
	ctx    context.Context // of the command
	client announce.Client // without the options of members
	from   []announce.Tracker
	key    announce.Key
	known  map[netip.AddrPort]string // "" for a peer without a label
}

// useLabels prepares the labels of a template, if it uses them.
func (o *client) useLabels(ctx context.Context) {
	if o.template == nil || !o.template.Uses(output.FieldLabel) {
		return
	}
	o.labels = &labels{ctx: ctx, client: announce.Client{Timeout: min(o.Timeout, labelWait), TLS: o.TLS, Token: o.Token},
		key: o.key, known: make(map[netip.AddrPort]string)}
	for _, t := range o.trackers {
		if !t.Classic() {
			o.labels.from = append(o.labels.from, t)
		}
	}
}

// know records the labels of the peers in a reply that was asked for labels.
func (l *labels) know(r *announce.Reply) {
	if l == nil {
		return
	}
	for _, p := range r.Peers {
		l.known[p] = r.Labels[p]
	}
}

// fill sets the labels of rows, which are a whole list, or changes.
func (l *labels) fill(rows []output.Row) {
	if l == nil || len(rows) == 0 {
		return
	}
	for _, r := range rows {
		if _, ok := l.known[r.Peer]; !ok && r.Event != announce.EventLeave {
			l.look()
			break
		}
	}
	present := make(map[netip.AddrPort]string)
	for i, r := range rows {
		rows[i].Label = l.known[r.Peer]
		present[r.Peer] = rows[i].Label
		if l.known[r.Peer] = rows[i].Label; r.Event == announce.EventLeave {
			delete(l.known, r.Peer)
		}
	}
	if rows[0].Event == "" {
		l.known = present
	}
}

// keep forgets the labels of all but these peers, which are sorted: the others have left. A look may have
// found a peer that joins and leaves without an event, and that may come back with another label.
func (l *labels) keep(peers []netip.AddrPort) {
	if l == nil || len(l.known) <= len(peers) {
		return
	}
	maps.DeleteFunc(l.known, func(p netip.AddrPort, _ string) bool {
		_, present := slices.BinarySearchFunc(peers, p, netip.AddrPort.Compare)
		return !present
	})
}

// look asks all trackers for labels. The first tracker that has one for a peer decides.
func (l *labels) look() {
	replies := make([]*announce.Reply, len(l.from))
	var wg sync.WaitGroup
	for i, t := range l.from {
		wg.Go(func() {
			replies[i], _ = l.client.List(l.ctx, t, announce.Request{Key: l.key, Want: maxLabels, Labels: true})
		})
	}
	wg.Wait()
	for i := range replies {
		if r := replies[len(replies)-1-i]; r != nil {
			l.know(r)
		}
	}
}

// maxLabels is the most labels that a tracker sends. List needs no stream for that many peers.
const maxLabels = 1000
