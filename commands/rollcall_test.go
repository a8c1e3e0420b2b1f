package commands

import (
	"errors"
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	"ntrack/announce"
)

// A member is lost when it has been gone for a second. A tracker that was away gives it a ttl.
func TestRollCall(t *testing.T) {
	a, b, c := netip.MustParseAddrPort("192.0.2.1:1"), netip.MustParseAddrPort("192.0.2.2:1"), netip.MustParseAddrPort("[fe80::1%eth0]:1")
	synctest.Test(t, func(t *testing.T) {
		lost := make(chan ending, 1)
		r := rollCall{met: []netip.AddrPort{a, c}, lost: lost}
		list := func(kind announce.EventType, peers ...netip.AddrPort) {
			r.call(announce.Event{Type: kind, Peers: peers, TTL: 38 * time.Second}, nil)
		}
		after := func(d time.Duration, want string) {
			t.Helper()
			time.Sleep(d)
			synctest.Wait()
			got := ""
			select {
			case e := <-lost:
				got = e.why
			default:
			}
			if got != want {
				t.Fatalf("after %v: %q, want %q", d, got, want)
			}
		}
		list(announce.EventPeers, a, b, c)
		after(time.Hour, "")
		list(announce.EventLeave, a, c) // b joined later, and is no member of this job
		after(time.Hour, "")
		// The connection of a member breaks, and it joins again within a second.
		list(announce.EventLeave, c)
		after(999*time.Millisecond, "")
		list(announce.EventJoin, a, c)
		after(time.Hour, "")
		// A member is gone, and another one joins meanwhile.
		list(announce.EventLeave, a)
		after(500*time.Millisecond, "")
		list(announce.EventJoin, a, b)
		after(499*time.Millisecond, "")
		after(time.Millisecond, "lost [fe80::1%eth0]:1")
		after(time.Hour, "")
		list(announce.EventJoin, a, c)
		// The tracker is away while a member is gone. After it is back, the member has a ttl.
		list(announce.EventLeave, a)
		r.call(announce.Event{}, errors.New("away"))
		list(announce.EventLeave) // of a peer that could not renew
		after(time.Hour, "")
		list(announce.EventPeers, a)
		after(37*time.Second, "")
		list(announce.EventJoin, a, c)
		after(time.Hour, "")
		r.call(announce.Event{}, errors.New("away"))
		list(announce.EventPeers, c)
		after(38*time.Second, "lost 192.0.2.1:1")
		// Two are lost at the same time, and nobody reads that: one of them counts.
		r.end()
		list(announce.EventLeave, c)
		time.Sleep(time.Millisecond)
		list(announce.EventLeave)
		time.Sleep(time.Hour)
		<-lost
		after(time.Hour, "")
		list(announce.EventPeers, a, c)
		list(announce.EventLeave, a)
		r.end()
		after(time.Hour, "")
	})
}
