package announce_test

import (
	"context"
	"encoding/binary"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/http"
	"net/netip"
	"slices"
	"strconv"
	"sync"
	"testing"
	"testing/synctest"

	"ntrack/announce"
)

// foreign is a classic tracker as others have written it. Like bittorrent-tracker it gives the
// asker among the peers, and does not tell which address it has listed.
type foreign struct {
	perFamily bool // a swarm for each family, as chihaya and aquatic have
	external  bool // tells the address
	byID      bool // keeps a peer for each peer id, so that an endpoint may be there several times
	atMost    int  // gives no more peers than that; 0: all that are wanted

	mu     sync.Mutex
	swarms map[string]map[string]netip.AddrPort
}

func (f *foreign) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	f.mu.Lock()
	defer f.mu.Unlock()
	q := r.URL.Query()
	from := netip.MustParseAddrPort(r.RemoteAddr).Addr()
	port, _ := strconv.ParseUint(q.Get("port"), 10, 16)
	want, _ := strconv.Atoi(q.Get("numwant"))
	self := netip.AddrPortFrom(from, uint16(port))
	track, id := q.Get("info_hash"), self.String()
	if f.perFamily {
		track += fmt.Sprint(from.Is4())
	}
	if f.byID {
		id += q.Get("peer_id")
	}
	if f.swarms[track] == nil {
		if f.swarms == nil {
			f.swarms = make(map[string]map[string]netip.AddrPort)
		}
		f.swarms[track] = make(map[string]netip.AddrPort)
	}
	swarm := f.swarms[track]
	if q.Get("event") == "stopped" {
		delete(swarm, id)
	} else {
		swarm[id] = self
	}
	peers := slices.Collect(maps.Values(swarm))
	rand.Shuffle(len(peers), func(i, j int) { peers[i], peers[j] = peers[j], peers[i] })
	if f.atMost > 0 {
		want = min(want, f.atMost)
	}
	var v4, v6 []byte
	for _, e := range peers[:min(len(peers), want)] {
		to := &v6
		if e.Addr().Is4() {
			to = &v4
		}
		*to = binary.BigEndian.AppendUint16(append(*to, e.Addr().AsSlice()...), e.Port())
	}
	ip := ""
	if f.external {
		ip = fmt.Sprintf("11:external ip%d:%s", len(from.AsSlice()), from.AsSlice())
	}
	fmt.Fprintf(w, "d%s10:incompletei%de8:intervali60e5:peers%d:%s6:peers6%d:%se", ip, len(swarm), len(v4), v4, len(v6), v6)
}

// foreigners are classic trackers of all sorts.
func foreigners(t *testing.T, test func(t *testing.T, p *pipes, f *foreign)) {
	for bits := range 8 {
		f := foreign{perFamily: bits&1 > 0, external: bits&2 > 0, byID: bits&4 > 0}
		t.Run(fmt.Sprintf("perFamily=%v,external=%v,byID=%v", f.perFamily, f.external, f.byID), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := new(pipes)
				p.start(&f)
				defer p.stop()
				test(t, p, &f)
			})
		})
	}
}

// classic is where such a tracker is.
func classic(t *testing.T) []announce.Tracker {
	return []announce.Tracker{named(t, "http://tracker.example/announce")}
}

// You are never a peer of yourself, by no family and however often you announce, and nothing is
// said to be missing where nothing is.
func TestForeignSelf(t *testing.T) {
	foreigners(t, func(t *testing.T, p *pipes, f *foreign) {
		k := key(t, "k")
		for range 3 { // a new client has a new peer id, as another process would
			c := p.both("192.0.2.1", "2001:db8::1")
			for range 2 {
				r, err := c.Announce(t.Context(), classic(t)[0], announce.Request{Key: k, Port: 4000})
				if err != nil {
					t.Fatal(err)
				}
				if got := fmt.Sprintf("%s of %d, %d, %v", endpoints(r), r.Count, r.Others(), r.Sample); got != " of 2, 0, false" {
					t.Errorf("an announce: %s", got)
				}
			}
			c.Close()
			var reply *announce.Reply
			ctx, cancel := context.WithCancel(t.Context())
			err := p.both("192.0.2.1", "2001:db8::1").Join(ctx, classic(t), announce.Request{Key: k, Port: 4000}, func(ev announce.Event, err error) {
				if err != nil || len(ev.Peers) > 0 {
					t.Errorf("a member: %+v, %v", ev, err)
				}
				reply = ev.Reply
				cancel()
			})
			if err != nil || reply == nil {
				t.Fatalf("no reply, %v", err)
			}
			reply.Merge(&announce.Reply{Count: reply.Count, Sample: reply.Sample}, 0)
			if got := fmt.Sprintf("%s of %d, %d, %v", endpoints(reply), reply.Count, reply.Others(), reply.Sample); got != " of 2, 0, false" {
				t.Errorf("a member's reply: %s", got)
			}
		}
	})
}

// Where a look has to announce to see anybody, it does not take itself for a peer, nor for one that
// makes the reply complete.
func TestForeignLook(t *testing.T) {
	const p, q, looker, odd = "\xc0\x00\x02\x02\x13\x88", "\xc0\x00\x02\x03\x13\x88", "\xc0\x00\x02\x01\x00\x01", "\xc0\x00\x02\x04\x00\x00"
	for _, tt := range []struct {
		about string
		count int // before it has announced
		given string
		want  string
	}{
		{"both", 2, p + looker + q, "192.0.2.2:5000 192.0.2.3:5000 of 2, false"},
		{"one, and the looker", 2, p + looker, "192.0.2.2:5000 of 2, true"},
		{"one, and one that nobody can dial", 2, p + looker + odd, "192.0.2.2:5000 of 2, false"},
		{"one of them twice", 3, p + q + p + looker, "192.0.2.2:5000 192.0.2.3:5000 of 2, false"},
		{"more than were counted", 1, p + q + p + looker, "192.0.2.2:5000 192.0.2.3:5000 of 1, false"},
	} {
		synctest.Test(t, func(t *testing.T) {
			pp := new(pipes)
			pp.start(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if r.FormValue("event") == "stopped" {
					fmt.Fprintf(w, "d10:incompletei%de8:intervali60e5:peers0:e", tt.count)
				} else {
					fmt.Fprintf(w, "d10:incompletei%de8:intervali60e5:peers%d:%se", tt.count+1, len(tt.given), tt.given)
				}
			}))
			defer pp.stop()
			r, err := pp.client("192.0.2.1").List(t.Context(), classic(t)[0], key(t, "k"), 0)
			if err != nil {
				t.Fatal(err)
			}
			if got := fmt.Sprintf("%s of %d, %v", endpoints(r), r.Count, r.Sample); got != tt.want {
				t.Errorf("%s: %s\nwant %s", tt.about, got, tt.want)
			}
		})
	}
}
