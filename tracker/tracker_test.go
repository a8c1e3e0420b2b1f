package tracker

import (
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"ntrack/announce/wire"
	"ntrack/tracker/store"
	"ntrack/tracker/store/memory"
)

// The memory that a later call can use again is small, and does not keep keys of the store in
// memory.
func TestScratchStaysSmall(t *testing.T) {
	const n = 2 * maxKept
	tr := &Tracker{MaxWant: n, Index: true}
	ask := func(target string, args ...any) {
		t.Helper()
		call := Call{Method: "GET", Target: fmt.Appendf(nil, target, args...), Remote: netip.MustParseAddrPort("127.0.0.1:1")}
		if resp, body := tr.Answer(t.Context(), &call, nil); resp.Status != 200 {
			t.Fatalf("%d %s", resp.Status, body)
		}
	}
	kept := func(what string) {
		t.Helper()
		for range 64 { // enough to find all that the pool keeps
			s := tr.scratch.Get().(*scratch)
			if cap(s.peers) > maxKept || cap(s.tracks) > maxKept {
				t.Errorf("%s: the memory of %d peers and %d tracks is kept", what, cap(s.peers), cap(s.tracks))
			}
			for _, track := range s.tracks[:cap(s.tracks)] {
				if len(track.Key.Bytes()) > 0 {
					t.Fatalf("%s: a key is kept: %v", what, track)
				}
			}
		}
	}
	for i := range 100 {
		ask("/ntrk/few%d?port=1&numwant=0", i)
	}
	ask("/ntrk/")
	kept("an index")
	for i := range n {
		ask("/ntrk/k?port=%d&numwant=0", 1+i)
		ask("/ntrk/%d?port=1&numwant=0", i)
	}
	ask("/ntrk/k?port=0&numwant=%d", n)
	kept("a large reply")
	ask("/ntrk/")
	kept("a large index")
}

// By default intervals keep the load below 1000 announces per second. A MaxRate below 0 is no
// limit.
func TestDefaultRate(t *testing.T) {
	for _, c := range []struct{ maxRate, shortest, longest int }{{0, 18, 20}, {DefaultMaxRate, 18, 20}, {2 * DefaultMaxRate, 15, 15}, {-1, 15, 15}} {
		tr := &Tracker{MaxRate: c.maxRate}
		tr.once.Do(tr.init)
		timing := tr.timingOf(&wire.Request{}, tr.meter.now())
		if got := int(timing.interval(store.Size{Peers: 15_000, Total: 15_000}).Seconds()); got < c.shortest || got > c.longest {
			t.Errorf("MaxRate %d: %d s, want %d to %d s", c.maxRate, got, c.shortest, c.longest)
		}
	}
}

// A blockingStore says that it may block.
type blockingStore struct{ *memory.Store }

func (blockingStore) NeverBlocks() bool { return false }

// AtOnce is true unless the store may block, or the call lists the index.
func TestAtOnce(t *testing.T) {
	table := memory.New()
	for _, tt := range []struct {
		tracker *Tracker
		target  string
		accept  string
		atOnce  bool
	}{
		{&Tracker{}, "/ntrk/k", "", true},
		{&Tracker{}, "/ntrk/", "", true},
		{&Tracker{}, "/ntrk/k", "application/json, */*", true},
		{&Tracker{}, "/ntrk/k", "text/event-stream", true},
		{&Tracker{Store: table}, "/announce?info_hash=k", "", true},
		{&Tracker{Store: struct{ *memory.Store }{table}}, "/ntrk/k", "", true},
		{&Tracker{Store: blockingStore{table}}, "/ntrk/k", "", false},
		{&Tracker{Index: true}, "/ntrk/k", "", true},
		{&Tracker{Index: true}, "/ntrk/", "", false},
		{&Tracker{Index: true}, "/ntrk/?format=json", "", false},
		{&Tracker{Index: true}, "http://h/ntrk/", "", false},
		{&Tracker{Index: true}, "/scrape", "", false},
		{&Tracker{Index: true}, "/scrape?x_info_hash=k", "", false},
		{&Tracker{Index: true}, "/announce?info_hash=/scrape", "", true},
	} {
		if got := tt.tracker.AtOnce(&Call{Method: "GET", Target: []byte(tt.target), Accept: []byte(tt.accept)}); got != tt.atOnce {
			t.Errorf("%s, %q, index %t, store %T: %t", tt.target, tt.accept, tt.tracker.Index, tt.tracker.Store, got)
		}
	}
}

// Large is true if a request wants many peers or a stream, or if it may want many in a way that Large
// does not read.
func TestLarge(t *testing.T) {
	for target, large := range map[string]bool{
		"/ntrk/k":                               false,
		"/ntrk/k?port=1":                        false,
		"/ntrk/k?numwant=":                      false,
		"/ntrk/k?numwant=0":                     false,
		"/ntrk/k?numwant=200":                   false,
		"/ntrk/k?numwant=0000200&port=1":        false,
		"/ntrk/k?numwant=201":                   true,
		"/ntrk/k?port=1&numwant=1000&compact=1": true,
		"/announce?info_hash=k&numwant=99999999999999999999999999": true,
		"/ntrk/k?numwant=%31000":                                   true,
		"/ntrk/k?numwant=-1":                                       true,
		"/ntrk/k?numwant=1&numwant=1000":                           true,
		"/ntrk/k?xnumwant=1&numwant=1000":                          true,
		"/ntrk/numwant=1000":                                       true,
		"/ntrk/k?port=1&format=http_sd":                            true,
		"/ntrk/k?format=http%5fsd":                                 true,
		"/ntrk/k?xformat=json&format=http_sd":                      true,
		"/ntrk/k?format=json&peer_id=%ff":                          false,
	} {
		if got := new(Tracker).Large(&Call{Method: "GET", Target: []byte(target)}); got != large {
			t.Errorf("%s: %t", target, got)
		}
	}
	for accept, large := range map[string]bool{"text/event-stream": true, "application/json": false} {
		if got := new(Tracker).Large(&Call{Method: "GET", Target: []byte("/ntrk/k"), Accept: []byte(accept)}); got != large {
			t.Errorf("%s: %t", accept, got)
		}
	}
}

// A store may forget ids. Then no peer has a label.
func TestLabelsForgotten(t *testing.T) {
	tr := &Tracker{Store: forgetful{memory.New()}}
	answer := func(target, remote string) string {
		t.Helper()
		resp, body := tr.Answer(t.Context(), &Call{Method: "GET", Target: []byte(target), Remote: netip.MustParseAddrPort(remote)}, nil)
		if resp.Status != 200 {
			t.Fatalf("%s: %d %s", target, resp.Status, body)
		}
		return string(body)
	}
	answer("/ntrk/k?peer_id=exactly%20twenty%20bytes", "127.0.0.1:1001")
	if body := answer("/ntrk/k?port=0&format=json&labels=1", "127.0.0.1:9"); !strings.HasSuffix(body, `"peers":["127.0.0.1:1001"],"labels":[null]}`+"\n") {
		t.Error(body)
	}
}

// A forgetful store keeps no peer ids, as package store allows.
type forgetful struct{ store.Store }

func (f forgetful) Announce(ctx context.Context, key []byte, peer wire.Peer, ttl func(store.Size) time.Duration, want store.Want, dst []wire.Peer) ([]wire.Peer, store.Result, error) {
	peer.ID = wire.ID{}
	return f.Store.Announce(ctx, key, peer, ttl, want, dst)
}

func TestAppendDate(t *testing.T) {
	for range 100_000 {
		when := time.Unix(rand.Int64N(1<<37), 0).UTC() // to the year 6325
		if got, want := string(appendDate(nil, when)), when.Format(http.TimeFormat); got != want {
			t.Fatalf("%s, not %s", got, want)
		}
	}
}

// Prometheus gets all peers of a key, however many a request for it wants and a reply may have, or a
// refusal.
func TestHTTPSD(t *testing.T) {
	tr := &Tracker{MaxWant: 7}
	add := func(from, to int) {
		for i := from; i < to; i++ {
			call := Call{Method: "GET", Target: fmt.Appendf(nil, "/ntrk/k?port=%d&numwant=0", 1+i%5000), Remote: netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 1, 0, byte(i / 5000)}), 9)}
			if resp, body := tr.Answer(t.Context(), &call, nil); resp.Status != 200 {
				t.Fatalf("%d, %s", resp.Status, body)
			}
		}
	}
	ask := func() (int, []byte) {
		call := Call{Method: "GET", Target: []byte("/ntrk/k?format=http_sd&numwant=1"), Remote: netip.MustParseAddrPort("127.0.0.1:9")}
		resp, body := tr.Answer(t.Context(), &call, nil)
		return resp.Status, body
	}
	add(0, 10_000)
	status, body := ask()
	var groups []struct {
		Targets []string
		Labels  map[string]string
	}
	if err := json.Unmarshal(body, &groups); err != nil || status != 200 || len(groups) != 1 {
		t.Fatalf("%d, %v, %d groups", status, err, len(groups))
	}
	slices.Sort(groups[0].Targets)
	if n := len(slices.Compact(groups[0].Targets)); n != 10_000 {
		t.Errorf("%d targets", n)
	}
	add(10_000, 10_001)
	if status, body = ask(); status != 503 || !strings.Contains(string(body), "10000") {
		t.Errorf("with more peers: %d, %.200s", status, body)
	}
}
