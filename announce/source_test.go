package announce

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

const (
	mine4, mine6 = "192.0.2.5:4000", "[2001:db8::5]:4000"
	peer, inside = "192.0.2.7:4000", "172.17.0.2:4000"
)

// endpointsOf parses endpoints.
func endpointsOf(s ...string) (list []netip.AddrPort) {
	for _, e := range s {
		list = append(list, netip.MustParseAddrPort(e))
	}
	return list
}

// reports returns what the loop of f reports after a time.
func reports(f *follower, after time.Duration) string {
	var s []string
	reported, _ := f.take(time.Now().Add(after))
	var now []netip.AddrPort
	for _, source := range f.sources {
		for e := range source.roster.peers {
			if f.isPresent(e) {
				now = append(now, e)
			}
		}
	}
	slices.SortFunc(now, netip.AddrPort.Compare)
	if now = slices.Compact(now); f.size != len(now) || !slices.Equal(now, f.list) {
		s = append(s, fmt.Sprintf("BUT there are %d: %v", f.size, now))
	}
	for _, n := range reported {
		if n.event.Type == EventPeers {
			s = append(s, fmt.Sprint("peers ", n.event.Peers))
		} else {
			s = append(s, fmt.Sprintf("%s %v", n.event.Type, n.event.Peer))
		}
	}
	return strings.Join(s, ", ")
}

// The local end of a connection is an own endpoint until the tracker reports one. After that, it is
// not: behind a NAT, a peer in the tracker's network may have the same address.
func TestOwnBehindNAT(t *testing.T) {
	f := newFollower()
	s := f.addSource(f.addTracker(Tracker{}))
	local, you, other, p := endpointsOf(inside)[0], endpointsOf(mine4)[0], endpointsOf("10.0.0.2:4000"), endpointsOf(inside, peer)
	s.recordConnection(local)
	s.recordList("E", usualTTL, 0, netip.AddrPort{}, p)
	if got := reports(f, time.Second); got != "peers ["+peer+"]" {
		t.Errorf("before the tracker reports the own endpoint: reported %q", got)
	}
	s.recordList("E", usualTTL, 0, you, p)
	if got := reports(f, time.Second); got != "peers ["+inside+" "+peer+"], join "+inside {
		t.Errorf("after the tracker has reported the own endpoint: reported %q", got)
	}
	s.recordStreamEnd()
	s.recordConnection(local)
	if got := reports(f, time.Second); got != "" {
		t.Errorf("after a new connection: reported %q", got)
	}
	s.recordStreamEnd()
	s.recordConnection(other[0]) // from another network: the tracker may list a new endpoint
	s.recordJoins(other)
	if got := reports(f, time.Second); got != "" {
		t.Errorf("after a connection from another network: reported %q", got)
	}
}

// A stream is given up when its timer has ended twice. If the process was suspended, the timer ends
// once, and then the process reads what has arrived since.
func TestSilenceAfterSuspension(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		x := &exchange{resp: &http.Response{Body: io.NopCloser(strings.NewReader("::"))}, live: true}
		x.ctx, x.cancel = context.WithCancelCause(t.Context())
		x.timer = time.AfterFunc(time.Hour, x.timeUp)
		dead := func() bool { return x.ctx.Err() != nil }
		var b [1]byte
		for range 2 {
			x.timeUp()
			if _, err := x.Read(b[:]); err != nil || dead() {
				t.Fatalf("gave up the stream although there is data to read: %v", err)
			}
		}
		time.Sleep(silence - time.Nanosecond)
		if synctest.Wait(); dead() {
			t.Error("dead too early")
		}
		time.Sleep(time.Nanosecond)
		if synctest.Wait(); !dead() {
			t.Error("not dead after all its time")
		}
	})
}
