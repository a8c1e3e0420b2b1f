package commands

import (
	"bytes"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"ntrack/announce"
	"ntrack/output"
	"ntrack/tracker"
)

// A labelTrial is a tracker that counts the looks for labels, and the labels of a command that uses it.
type labelTrial struct {
	t     *testing.T
	at    announce.Tracker
	looks atomic.Int32
	key   announce.Key
}

func newLabelTrial(t *testing.T) *labelTrial {
	x := &labelTrial{t: t}
	handler := tracker.Handler(&tracker.Tracker{})
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Query().Get("labels") == "1" {
			x.looks.Add(1)
		}
		handler.ServeHTTP(w, r)
	}))
	t.Cleanup(srv.Close)
	var err error
	if x.at, err = announce.ParseTracker(srv.URL); err != nil {
		t.Fatal(err)
	}
	if x.key, err = announce.ParseKey("k"); err != nil {
		t.Fatal(err)
	}
	return x
}

func (x *labelTrial) join(port uint16, label string) {
	x.t.Helper()
	r := announce.Request{Key: x.key, Port: port}
	if label != "" {
		var err error
		if r.ID, err = announce.ParseLabel(label); err != nil {
			x.t.Fatal(err)
		}
	}
	c := new(announce.Client)
	defer c.Close()
	if _, err := c.Announce(x.t.Context(), x.at, r); err != nil {
		x.t.Fatal(err)
	}
}

// labels returns the labels of a command with these trackers and a template that uses labels.
func (x *labelTrial) labels(trackers ...announce.Tracker) *labels {
	x.t.Helper()
	o := &client{trackers: trackers, key: x.key}
	o.Timeout = announce.DefaultTimeout
	var err error
	if o.template, err = output.ParseTemplate("{{.Label}}"); err != nil {
		x.t.Fatal(err)
	}
	o.useLabels(x.t.Context())
	return o.labels
}

// rowsOf returns rows for these ports of 127.0.0.1.
func rowsOf(event announce.EventType, ports ...uint16) (rows []output.Row) {
	for _, p := range ports {
		rows = append(rows, output.Row{Peer: netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), p), Event: event})
	}
	return rows
}

// fill checks the labels of rows, and how many looks they cost.
func (x *labelTrial) fill(l *labels, rows []output.Row, wantLooks int32, want ...string) {
	x.t.Helper()
	before := x.looks.Load()
	l.fill(rows)
	var got []string
	for _, r := range rows {
		got = append(got, r.Label)
	}
	if n := x.looks.Load() - before; !slices.Equal(got, want) || n != wantLooks {
		x.t.Errorf("%q after %d looks, want %q after %d", got, n, want, wantLooks)
	}
}

// New peers cost one look together, and peers that are known none.
func TestLabelsCostOneLook(t *testing.T) {
	x := newLabelTrial(t)
	x.join(1, "one")
	x.join(2, "")
	x.join(3, "three")
	l := x.labels(x.at)
	join, leave := announce.EventJoin, announce.EventLeave
	x.fill(l, rowsOf(join, 1, 2, 3), 1, "one", "", "three")
	x.fill(l, rowsOf(join, 2), 0, "")
	x.join(3, "new")
	x.fill(l, rowsOf(leave, 3), 0, "three")
	x.fill(l, rowsOf(leave, 3), 0, "")
	x.fill(l, rowsOf(join, 3), 1, "new")
	x.fill(l, rowsOf("", 1, 2, 3), 0, "one", "", "new")
	x.fill(l, rowsOf("", 1, 9), 1, "one", "") // the tracker does not know 9
	x.fill(l, rowsOf("", 1, 9), 0, "one", "")
	x.fill(l, nil, 0)
	if len(l.known) != 2 {
		t.Errorf("labels of peers that are gone are kept: %v", l.known)
	}
	// Without a template that uses labels there are none.
	o := &client{trackers: []announce.Tracker{x.at}}
	if o.useLabels(t.Context()); o.labels != nil {
		t.Error("labels without a template")
	}
	x.fill(o.labels, rowsOf(join, 1), 0, "")
}

// A peer that joins and leaves while a watch looks for labels has no event. If it comes back, its label is
// the new one.
func TestLabelsForgetUnseenPeers(t *testing.T) {
	x := newLabelTrial(t)
	x.join(1, "one")
	x.join(2, "old")
	o := &watchOptions{client: client{labels: x.labels(x.at)}}
	var err error
	if o.template, err = output.ParseTemplate("{{.Event}} {{.Label}}", output.FieldEvent); err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	show := o.printer(Streams{Out: &out})
	peers := []netip.AddrPort{rowsOf("", 1)[0].Peer, rowsOf("", 2)[0].Peer}
	for _, ev := range []announce.Event{
		{Type: announce.EventPeers, Peers: peers[:1]}, // 2 has left during the look
		{Type: announce.EventJoin, Peer: peers[1], Peers: peers},
		{Type: announce.EventLeave, Peer: peers[1], Peers: peers[:1]},
	} {
		if err := show(ev); err != nil {
			t.Fatal(err)
		}
		x.join(2, "new")
	}
	if want := "join one\njoin new\nleave new\n"; out.String() != want {
		t.Errorf("%q, want %q", &out, want)
	}
}

// A tracker that does not answer delays the output for a moment only, and others have the labels.
func TestLabelsOfSeveralTrackers(t *testing.T) {
	x := newLabelTrial(t)
	x.join(1, "one")
	release := make(chan struct{})
	silent := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { <-release }))
	defer silent.Close()
	defer close(release)
	at := func(url string) announce.Tracker {
		a, err := announce.ParseTracker(url)
		if err != nil {
			t.Fatal(err)
		}
		return a
	}
	l := x.labels(at(silent.URL))
	if l.client.Timeout > 2*time.Second {
		t.Errorf("a look may take %v", l.client.Timeout)
	}
	l.client.Timeout = 100 * time.Millisecond // instead of two seconds
	x.fill(l, rowsOf("", 1), 0, "")
	gone := httptest.NewServer(nil)
	gone.Close()
	classic := at(strings.Replace(x.at.String(), "/ntrk/", "/announce", 1))
	x.fill(x.labels(classic, at(gone.URL), x.at), rowsOf("", 1), 1, "one")
	l = x.labels(classic) // it has no labels, and is not asked
	x.fill(l, rowsOf("", 1), 0, "")
	if len(l.from) > 0 {
		t.Error("a classic tracker is asked for labels")
	}
	// The first tracker that has a label decides.
	y := newLabelTrial(t)
	y.join(1, "uno")
	y.join(2, "due")
	x.fill(x.labels(x.at, y.at), rowsOf("", 1, 2), 1, "one", "due")
}

// A look for labels asks for more than the usual number of peers, with the token and the TLS of the command.
func TestLabelsUseOptions(t *testing.T) {
	const peers = 300
	handler := tracker.Handler(&tracker.Tracker{Tokens: []string{"a-token-of-the-tracker"}})
	srv := httptest.NewTLSServer(handler)
	defer srv.Close()
	x := &labelTrial{t: t}
	var err error
	if x.at, err = announce.ParseTracker(srv.URL); err != nil {
		t.Fatal(err)
	}
	if x.key, err = announce.ParseKey("k"); err != nil {
		t.Fatal(err)
	}
	o := &client{trackers: []announce.Tracker{x.at}, key: x.key}
	o.Timeout, o.Token, o.TLS = announce.DefaultTimeout, "a-token-of-the-tracker", srv.Client().Transport.(*http.Transport).TLSClientConfig
	if o.template, err = output.ParseTemplate("{{.Label}}"); err != nil {
		t.Fatal(err)
	}
	id, err := announce.ParseLabel("all the same")
	if err != nil {
		t.Fatal(err)
	}
	member := announce.Client{Token: o.Token, TLS: o.TLS}
	defer member.Close()
	var ports []uint16
	for port := range uint16(peers) {
		ports = append(ports, port+1)
		if _, err := member.Announce(t.Context(), x.at, announce.Request{Key: x.key, Port: port + 1, ID: id}); err != nil {
			t.Fatal(err)
		}
	}
	o.useLabels(t.Context())
	rows := rowsOf("", ports...)
	o.labels.fill(rows)
	for _, r := range rows {
		if r.Label != "all the same" {
			t.Fatalf("%s has the label %q", r.Peer, r.Label)
		}
	}
}

// A note says that list shows only some labels of a large track, unless none is asked for.
func TestListNotesMissingLabels(t *testing.T) {
	x := newLabelTrial(t)
	c := new(announce.Client)
	defer c.Close()
	id, err := announce.ParseLabel("a label")
	if err != nil {
		t.Fatal(err)
	}
	const note = "only 1000 have their labels here"
	list := func(n int, want bool, options ...string) {
		t.Helper()
		var out, notes bytes.Buffer
		args := append([]string{"ntrack", "list", "k", "-t", "http://" + x.at.HostPort()}, options...)
		if code := Main(t.Context(), args, Streams{In: strings.NewReader(""), Out: &out, Err: &notes}); code != 0 {
			t.Fatalf("exit code %d: %s", code, &notes)
		}
		if strings.Contains(notes.String(), note) != want || strings.Count(out.String(), "127.0.0.1:") < n {
			t.Errorf("list %q of %d peers has the note: %v, want %v; its notes are %q", options, n, !want, want, &notes)
		}
	}
	for port := range uint16(maxLabels + 1) {
		if port == maxLabels {
			list(maxLabels, false)
		}
		if _, err := c.Announce(t.Context(), x.at, announce.Request{Key: x.key, Port: 2000 + port, ID: id}); err != nil {
			t.Fatal(err)
		}
	}
	list(maxLabels+1, true)
	list(maxLabels+1, true, "--format", "{{.Endpoint}} {{.Label}}")
	list(maxLabels+1, false, "-q")
}
