package storetest

import (
	"context"
	"fmt"
	"net/netip"
	"strings"
	"sync/atomic"
	"testing/synctest"
	"time"

	"ntrack/announce/wire"
	"ntrack/tracker/store"
)

// follower is a subscriber who believes what he is told.
type follower struct {
	s     *tester
	key   string
	self  netip.AddrPort
	sub   store.Subscription
	wakes atomic.Int32
	view  map[netip.AddrPort]bool
	live  bool
	left  bool // it must have ended
}

func (s *tester) subscribe(key, self string) (f *follower, given string) {
	s.t.Helper()
	f = &follower{s: s, key: key, self: netip.MustParseAddrPort(self), view: map[netip.AddrPort]bool{}, live: true}
	mine := []byte(key)
	before := wire.Peer{Endpoint: netip.MustParseAddrPort("203.0.113.99:9")}
	peers, sub, err := s.Subscribe(context.Background(), mine, wire.Peer{Endpoint: f.self}, func() { f.wakes.Add(1) }, []wire.Peer{before})
	if err != nil {
		s.t.Fatal(err)
	}
	clear(mine)
	if len(peers) == 0 || peers[0] != before {
		s.t.Fatalf("not appended: %v", peers)
	}
	f.sub = sub
	for _, p := range peers[1:] {
		if f.view[p.Endpoint] {
			s.t.Errorf("%v is given twice", p.Endpoint)
		}
		f.view[p.Endpoint] = true
	}
	return f, show(peers[1:])
}

// next is what the follower is told: "+192.0.2.1:1 -192.0.2.2:1", and "end" at the end.
func (f *follower) next() string {
	f.s.t.Helper()
	woken := f.wakes.Swap(0) > 0
	changes, live := f.sub.Next(nil)
	var out []string
	for _, c := range changes {
		sign := "-"
		if c.Joined {
			sign = "+"
		}
		out = append(out, sign+c.Endpoint.String())
		if f.view[c.Endpoint] == c.Joined || c.Endpoint == f.self {
			f.s.t.Errorf("%v of %q is told that %v (joined: %v)", f.self, f.key, c.Endpoint, c.Joined)
		}
		if f.view[c.Endpoint] = true; !c.Joined {
			delete(f.view, c.Endpoint)
		}
	}
	if f.live && !live {
		out = append(out, "end")
		f.live = false
	}
	if len(out) > 0 && !woken {
		f.s.t.Errorf("%v of %q was not woken for %v", f.self, f.key, out)
	}
	return strings.Join(out, " ")
}

// expect waits for as long as a change may take to be told.
func (f *follower) expect(what, want string) {
	f.s.t.Helper()
	time.Sleep(told)
	synctest.Wait()
	f.s.expect(fmt.Sprintf("%s: what %v is told", what, f.self), f.next(), want)
}
