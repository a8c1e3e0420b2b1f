package announce_test

import (
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"ntrack/announce"
	"ntrack/announce/wire"
)

// foreign is a classic tracker that behaves like those of other projects. Like bittorrent-tracker, it
// includes the asker in the peers, and does not report the address that it has listed.
type foreign struct {
	perFamily bool         // keeps the peers of each family apart, like chihaya and aquatic
	external  bool         // reports the address that it has listed
	byID      bool         // identifies peers by their ids, so it may list an endpoint several times
	slow6     atomic.Int64 // how long an answer over IPv6 takes, in nanoseconds

	mu     sync.Mutex
	swarms map[string]map[string]netip.AddrPort
}

func (f *foreign) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	from := netip.MustParseAddrPort(r.RemoteAddr).Addr()
	reply := ""
	if r.URL.Path == "/scrape" {
		reply = f.scrape(from)
	} else {
		reply = f.answer(from, r.URL.Query())
	}
	if slow := time.Duration(f.slow6.Load()); from.Is6() && slow > 0 {
		select {
		case <-time.After(slow):
		case <-r.Context().Done():
		}
	}
	_, _ = io.WriteString(w, reply)
}

func (f *foreign) answer(from netip.Addr, q url.Values) string {
	f.mu.Lock()
	defer f.mu.Unlock()
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
	return fmt.Sprintf("d%s10:incompletei%de8:intervali60e5:peers%d:%s6:peers6%d:%se", ip, len(swarm), len(v4), v4, len(v6), v6)
}

func (f *foreign) scrape(from netip.Addr) string {
	f.mu.Lock()
	defer f.mu.Unlock()
	var tracks []announce.Track
	for name, swarm := range f.swarms {
		hash, family := name[:20], name[20:]
		if family == "" || family == fmt.Sprint(from.Is4()) {
			tracks = append(tracks, announce.Track{Key: wire.KeyOf([]byte(hash)), Count: len(swarm)})
		}
	}
	return string(wire.AppendTracks(nil, wire.FormatBencode, tracks))
}

// foreigners runs a test with each kind of foreign tracker.
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

// classic returns the list of one classic tracker.
func classic(t *testing.T) []announce.Tracker {
	return []announce.Tracker{named(t, "http://tracker.example/announce")}
}

// A process is never its own peer, over either family, however often it announces. If no peer is
// missing, the reply is not a sample.
func TestForeignSelf(t *testing.T) {
	foreigners(t, func(t *testing.T, p *pipes, f *foreign) {
		k := key(t, "k")
		for range 3 { // a new client has a new peer id, like another process
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
			err := stay(ctx, p.both("192.0.2.1", "2001:db8::1"), classic(t), announce.Request{Key: k, Port: 4000}, func(ev announce.Event, err error) {
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

// A look may have to announce to see any peers. The asker is then neither in the peers nor in the
// count.
func TestForeignLook(t *testing.T) {
	const p, q, looker, odd = "\xc0\x00\x02\x02\x13\x88", "\xc0\x00\x02\x03\x13\x88", "\xc0\x00\x02\x01\x00\x01", "\xc0\x00\x02\x04\x00\x00"
	for _, tt := range []struct {
		about string
		count int // the count before the look announces
		given string
		want  string
	}{
		{"both", 2, p + looker + q, "192.0.2.2:5000 192.0.2.3:5000 of 2, false"},
		{"one, and the looker", 2, p + looker, "192.0.2.2:5000 of 2, true"},
		{"one, and one that cannot be dialled", 2, p + looker + odd, "192.0.2.2:5000 of 2, false"},
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
			r, err := pp.client("192.0.2.1").List(t.Context(), classic(t)[0], announce.Request{Key: key(t, "k")})
			if err != nil {
				t.Fatal(err)
			}
			if got := fmt.Sprintf("%s of %d, %v", endpoints(r), r.Count, r.Sample); got != tt.want {
				t.Errorf("%s: %s\nwant %s", tt.about, got, tt.want)
			}
		})
	}
}

// List, Watch, Join and Gather see the peers of both families, even if the tracker reports to each
// family only peers of that family.
func TestForeignFamilies(t *testing.T) {
	foreigners(t, func(t *testing.T, p *pipes, f *foreign) {
		deadline(t, 24*time.Hour)
		k := key(t, "k")
		const a4, b6, c4, c6 = "192.0.2.1:4001", "[2001:db8::2]:4002", "192.0.2.3:4003", "[2001:db8::3]:4003"
		leaveA := join(t, p.both("192.0.2.1", ""), classic(t), k, 4001)
		if tracks, err := p.both("192.0.2.9", "2001:db8::9").Index(t.Context(), classic(t)[0]); err != nil || len(tracks) != 1 || tracks[0].Count != 1 {
			t.Errorf("the index has %v, %v", tracks, err)
		}
		leaveB := join(t, p.both("", "2001:db8::2"), classic(t), k, 4002)
		expect := func(from4, from6, want string, count int) {
			t.Helper()
			c := p.both(from4, from6)
			defer c.Close()
			r, err := c.List(t.Context(), classic(t)[0], announce.Request{Key: k})
			if err != nil {
				t.Fatal(err)
			}
			if got := endpoints(r); got != want || r.Count != count || r.Sample {
				t.Errorf("a list has %q, %d, %v; want %q, %d", got, r.Count, r.Sample, want, count)
			}
		}
		expect("192.0.2.9", "2001:db8::9", a4+" "+b6, 2)
		p.lose("192.0.2.9", true)
		if f.perFamily {
			expect("192.0.2.9", "2001:db8::9", b6, 1)
			expect("192.0.2.8", "", a4, 1)
		} else {
			expect("192.0.2.9", "2001:db8::9", a4+" "+b6, 2)
		}
		p.lose("192.0.2.9", false)
		w := watch(t, p.both("192.0.2.9", "2001:db8::9"), classic(t), announce.Request{Key: k}, 10*time.Second)
		w.expect(t, "peers ["+a4+" "+b6+"]")
		leaveC := join(t, p.both("192.0.2.3", "2001:db8::3"), classic(t), k, 4003)
		time.Sleep(time.Minute)
		if got := sorted(strings.Split(w.next(), ", ")...); got != sorted("join "+c4, "join "+c6) {
			t.Errorf("a watch reports %q", got)
		}
		time.Sleep(10 * time.Minute)
		w.expect(t, "")
		_ = leaveA()
		time.Sleep(time.Minute)
		w.expect(t, "leave "+a4)
		_ = leaveC()
		time.Sleep(time.Minute)
		if got := sorted(strings.Split(w.next(), ", ")...); got != sorted("leave "+c4, "leave "+c6) {
			t.Errorf("a watch reports %q", got)
		}
		w.end()
		_ = leaveB()

		// Gather counts each process once. It also counts peers that have ended without a leave.
		if !f.external {
			return // without the own endpoint there are no ranks
		}
		leaveA = join(t, p.both("192.0.2.1", ""), classic(t), k, 4001)
		leaveB = join(t, p.both("", "2001:db8::2"), classic(t), k, 4002)
		results := make(chan string)
		for i := range 2 {
			go func() {
				ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
				defer cancel()
				c := p.both(fmt.Sprint("192.0.2.1", i), fmt.Sprint("2001:db8::1", i))
				g, err := c.Gather(ctx, classic(t)[0], announce.Request{Key: k, Port: 5000}, 4, nil)
				results <- gathered{g, err, 0}.String()
				g.Leave(t.Context())
			}()
		}
		all := sorted(<-results, <-results)
		const both = " of " + a4 + " 192.0.2.10:5000 192.0.2.11:5000 " + b6 + ", <nil>"
		if want := "1" + both + " 2" + both; all != want {
			t.Errorf("gathered %s\nwant %s", all, want)
		}
		dials := p.dials()
		g, err := p.both("192.0.2.9", "2001:db8::9").Gather(t.Context(), classic(t)[0], announce.Request{Key: k}, 4, nil)
		if got := (gathered{g, err, 0}).String(); got != "-1"+both {
			t.Errorf("a process that only looks gathers %s", got)
		}
		if n := p.dials() - dials; n != 3 {
			t.Errorf("%d connections, want one to find the family and one over each family", n)
		}
		g.Leave(t.Context())
		_ = leaveA()
		_ = leaveB()
		time.Sleep(time.Minute)
		f.mu.Lock()
		defer f.mu.Unlock()
		for _, swarm := range f.swarms {
			for _, e := range swarm {
				t.Errorf("after all have left, the tracker lists %v", e)
			}
		}
	})
}

// If the tracker has accepted a connection over a family, but answers slowly, the client waits for
// up to two seconds. The tracker may have listed the asker over this family. The asker is still not
// its own peer.
func TestForeignSlowFamily(t *testing.T) {
	foreigners(t, func(t *testing.T, p *pipes, f *foreign) {
		deadline(t, 24*time.Hour)
		k := key(t, "k")
		f.slow6.Store(int64(3 * time.Second)) // the client waits longer for its only family
		if _, err := p.both("", "2001:db8::9").List(t.Context(), classic(t)[0], announce.Request{Key: k}); err != nil {
			t.Error(err)
		}
		f.slow6.Store(0)
		leave := join(t, p.both("", "2001:db8::2"), classic(t), k, 4002)
		defer func() { _ = leave() }()
		const b6 = "[2001:db8::2]:4002"
		for _, tt := range []struct {
			slow, takes time.Duration
			both        bool
		}{{700 * time.Millisecond, 700 * time.Millisecond, true}, {time.Hour, 2 * time.Second, false}} {
			f.slow6.Store(int64(tt.slow))
			seen := b6
			if !tt.both && f.perFamily {
				seen = ""
			}
			took := func(what string, began time.Time) {
				t.Helper()
				if d := time.Since(began); d != tt.takes {
					t.Errorf("%s took %v, want %v", what, d, tt.takes)
				}
			}
			c := p.both("192.0.2.1", "2001:db8::1")
			for range 2 {
				began := time.Now()
				r, err := c.Announce(t.Context(), classic(t)[0], announce.Request{Key: k, Port: 4000})
				if err != nil {
					t.Fatal(err)
				}
				if got := endpoints(r); got != seen || r.Others() != len(r.Peers) || r.Sample || f.external && tt.both && len(r.Endpoints) != 2 {
					t.Errorf("slow by %v: an announce gives %q, %v, %v", tt.slow, got, r.Endpoints, r.Sample)
				}
				took("an announce", began)
			}
			c.Close()
			began := time.Now()
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			w := p.both("192.0.2.9", "2001:db8::9")
			w.Poll = 10 * time.Second
			for ev := range w.Watch(ctx, classic(t), announce.Request{Key: k}) {
				if took("the first event", began); strings.Contains(fmt.Sprint(ev.Peers), b6) != (seen == b6) {
					t.Errorf("slow by %v: a watch begins with %v", tt.slow, ev.Peers)
				}
				break
			}
			cancel()
			began = time.Now()
			r, err := p.both("192.0.2.9", "2001:db8::9").List(t.Context(), classic(t)[0], announce.Request{Key: k})
			if took("a list", began); err != nil || strings.Contains(endpoints(r), b6) != (seen == b6) {
				t.Errorf("slow by %v: a list has %v, %v", tt.slow, endpoints(r), err)
			}
			began = time.Now()
			g, err := p.both("192.0.2.9", "2001:db8::9").Gather(t.Context(), classic(t)[0], announce.Request{Key: k}, 1, nil)
			if took("a gathering", began); err != nil || strings.Contains(fmt.Sprint(g.Peers), b6) != (seen == b6) {
				t.Errorf("slow by %v: a process that only looks gathers %v, %v", tt.slow, g.Peers, err)
			}
			g.Leave(t.Context())
			f.slow6.Store(0)
		}
	})
}

// After the tracker has reported the endpoint that it lists, the client ignores the local end of its
// connection. Behind a NAT, another peer may have that address in the tracker's network.
func TestAnnounceBehindNAT(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := new(pipes)
		p.start(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			_, _ = io.WriteString(w, `{"you":"203.0.113.5:4000","interval":60,"count":2,"peers":["172.17.0.2:4000"]}`)
		}))
		defer p.stop()
		r, err := p.client("172.17.0.2").Announce(t.Context(), one[0], announce.Request{Key: key(t, "k"), Port: 4000})
		if err != nil || endpoints(r) != "172.17.0.2:4000" {
			t.Errorf("%+v, %v", r, err)
		}
	})
}
