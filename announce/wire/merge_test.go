package wire

import (
	"fmt"
	"net/netip"
	"testing"
	"time"
)

func TestMergeReplies(t *testing.T) {
	reply := func(you string, count int, interval time.Duration, sample bool, peers ...string) *Reply {
		r := &Reply{Count: count, Interval: interval, Sample: sample}
		if you != "" {
			r.You = netip.MustParseAddrPort(you)
			r.Endpoints = []netip.AddrPort{r.You}
		}
		for _, p := range peers {
			r.Peers = append(r.Peers, netip.MustParseAddrPort(p))
		}
		return r
	}
	self := func(r *Reply, e string) *Reply {
		r.self = append(r.self, netip.MustParseAddrPort(e))
		return r
	}
	barred := func(r *Reply, n int) *Reply {
		r.barred = n
		return r
	}
	const a, b, c, me, me6 = "192.0.2.1:1", "192.0.2.2:2", "192.0.2.3:3", "192.0.2.9:9", "[2001:db8::9]:9"
	for _, m := range []struct {
		about string
		r, o  *Reply
		want  int
		is    string
	}{
		{"both families, which list each other", reply(me, 3, 60, false, a, me6), reply(me6, 3, 60, false, a, me), 0, me + " [" + me + " " + me6 + "] [" + a + "] 3 60 false"},
		{"two trackers with one peer in common", reply(me, 3, 60, false, a, b), reply(me, 3, 30, false, b, c), 0, me + " [" + me + "] [" + a + " " + b + " " + c + "] 4 30 false"},
		{"looks", reply("", 1, 60, false, a), reply("", 1, 0, false, b), 0, "invalid AddrPort [] [" + a + " " + b + "] 2 60 false"},
		{"a tracker that does not count", reply("", -1, 60, true, a), reply("", 5, 60, false, b), 0, "invalid AddrPort [] [" + a + " " + b + "] -1 60 false"},
		{"samples", reply("", 5, 60, true, a), reply("", 4, 60, true, b), 0, "invalid AddrPort [] [" + a + " " + b + "] 5 60 true"},
		{"more than are wanted", reply("", 2, 60, false, a, b), reply("", 1, 60, false, c), 2, "invalid AddrPort [] [" + a + " " + b + "] 3 60 true"},
		{"nobody is wanted", reply(me, 3, 60, true), reply(me6, 3, 60, true), NoPeers, me + " [" + me + " " + me6 + "] [] 3 60 true"},
		{"only the second tells the endpoint", reply("", 1, 60, false), reply(me, 1, 60, false), 0, me + " [" + me + "] [] 1 60 false"},
		{"both families, of which neither tells the endpoint", self(reply("", 2, 60, false, me6, a), me), self(reply("", 3, 60, false, a, me), me6), 0, "invalid AddrPort [] [" + a + "] 3 60 false"},
		{"both families, alone", self(reply("", 1, 60, false), me), self(reply("", 2, 60, false, me), me6), 0, "invalid AddrPort [] [] 2 60 false"},
		{"both families of a tracker that has a swarm for each", self(reply("", 1, 60, false), me), self(reply("", 1, 60, false), me6), 0, "invalid AddrPort [] [] 2 60 false"},
		{"only one family tells the endpoint", reply(me, 3, 60, false, a, me6), self(reply("", 3, 60, false, a, me), me6), 0, me + " [" + me + "] [" + a + "] 3 60 false"},
		{"a connection from the endpoint that the other one tells", reply(me, 1, 60, false), self(reply("", 2, 60, false, a), me), 0, me + " [" + me + "] [" + a + "] 2 60 false"},
		{"all that can be dialled", barred(reply("", 2, 60, false, a), 1), barred(reply("", 2, 60, false, a), 1), 0, "invalid AddrPort [] [" + a + "] 2 60 false"},
		{"a sample with some that cannot", barred(reply("", 3, 60, true, a), 1), reply("", 1, 60, false, b), 0, "invalid AddrPort [] [" + a + " " + b + "] 3 60 false"},
		{"a sample of one", reply("", 9, 60, true, a), reply("", 1, 60, false, b), 0, "invalid AddrPort [] [" + a + " " + b + "] 9 60 true"},
		{"a sample, and one with some that cannot", reply("", 3, 60, true, a), barred(reply("", 2, 60, false, b), 1), 0, "invalid AddrPort [] [" + a + " " + b + "] 3 60 false"},
		{"all that there is, whatever the count says", reply("", 3, 60, false, a), reply("", 1, 60, false, b), 0, "invalid AddrPort [] [" + a + " " + b + "] 3 60 false"},
		{"two peers each, one of them twice", reply("", 2, 60, false, a, a), reply("", 2, 60, false, b, a), 0, "invalid AddrPort [] [" + a + " " + b + "] 2 60 false"},
	} {
		m.r.Merge(m.o, m.want)
		if got := fmt.Sprintf("%v %v %v %d %d %v", m.r.You, m.r.Endpoints, m.r.Peers, m.r.Count, m.r.Interval, m.r.Sample); got != m.is {
			t.Errorf("%s: %s\nwant %s", m.about, got, m.is)
		}
	}
}
