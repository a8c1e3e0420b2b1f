package wire

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"
)

const (
	mine4, mine6 = "192.0.2.5:4000", "[2001:db8::5]:4000"
	peer, inside = "192.0.2.7:4000", "172.17.0.2:4000"
)

func endpointsOf(s ...string) (list []netip.AddrPort) {
	for _, e := range s {
		list = append(list, netip.MustParseAddrPort(e))
	}
	return list
}

// records returns peers in the compact form.
func records(endpoints ...string) string {
	var v4, v6 []byte
	for _, e := range endpointsOf(endpoints...) {
		to := &v6
		if e.Addr().Is4() {
			to = &v4
		}
		*to = binary.BigEndian.AppendUint16(append(*to, e.Addr().AsSlice()...), e.Port())
	}
	return fmt.Sprintf("5:peers%d:%s6:peers6%d:%s", len(v4), v4, len(v6), v6)
}

// crowd returns n different peers.
func crowd(n int) []string {
	var list []string
	for i := range n {
		list = append(list, fmt.Sprintf("198.51.100.7:%d", 1000+i))
	}
	return list
}

// An endpoint is one peer and counts once, even if a reply has it several times. The client itself is
// not among the peers. The tracker may list the client, only count it, have it several times, or not
// have it.
func TestRepeatedEndpoints(t *testing.T) {
	const other, mapped = "192.0.2.8:4000", "[::ffff:192.0.2.7]:4000"
	join := func(lists ...[]string) (all []string) {
		for _, l := range lists {
			all = append(all, l...)
		}
		return all
	}
	for _, tt := range []struct {
		about  string
		count  int      // -1: the tracker does not count
		given  []string // the entries of the reply
		member bool     // announces; otherwise looks
		want   int      // Request.Want
		result string   // peers of count, others, sample
	}{
		{"alone", 1, nil, true, 0, "0 of 1, 0, false"},
		{"alone, and given", 1, []string{mine4}, true, 0, "0 of 1, 0, false"},
		{"alone, and not counted", 0, nil, true, 0, "0 of 0, 0, false"},
		{"alone, three times", 3, []string{mine4, mine4, mine4}, true, 0, "0 of 1, 0, false"},
		{"alone, three times, of which two are given", 3, []string{mine4, mine4}, true, 0, "0 of 1, 0, false"},
		{"alone, twice, of which one is given", 2, []string{mine4}, true, 0, "0 of 1, 0, false"},
		{"one of two, and want is one", 2, []string{mine4}, true, 1, "0 of 2, 1, true"},
		{"a peer twice", 3, []string{peer, peer}, true, 0, "1 of 2, 1, false"},
		{"a peer twice, and the asker", 3, []string{peer, mine4, peer}, true, 0, "1 of 2, 1, false"},
		{"a peer by both families", 3, []string{peer, mapped}, true, 0, "1 of 2, 1, false"},
		{"two peers twice, and the asker three times", 7, []string{peer, mine4, other, mine4, other, mine4, peer}, true, 0, "2 of 3, 2, false"},
		{"one that cannot be dialled", 3, []string{peer, "192.0.2.9:1"}, true, 0, "1 of 3, 2, false"},
		{"some that the tracker does not list", 6, []string{mine4, peer, other}, true, 0, "2 of 6, 5, true"},
		{"no count", -1, []string{peer, peer, mine4}, true, 0, "1 of -1, -1, false"},
		{"no count, and as many as are wanted", -1, []string{peer, peer, mine4}, true, 3, "1 of -1, -1, true"},
		{"fewer counted than given", 1, []string{peer, peer, peer, other}, true, 0, "2 of 1, 2, false"},
		{"a sample", 100, join(crowd(49), crowd(1)), true, 0, "49 of 99, 98, true"},
		{"a sample without one", 202, crowd(200), true, 1000, "200 of 202, 201, true"},
		{"all but the asker", 201, crowd(200), true, 1000, "200 of 201, 200, false"},
		{"a sample with the asker", 201, join(crowd(199), []string{mine4}), true, 1000, "199 of 201, 200, true"},
		{"all with the asker", 200, join(crowd(199), []string{mine4}), true, 1000, "199 of 200, 199, false"},
		{"a look", 3, []string{peer, other, peer}, false, 0, "2 of 2, 2, false"},
		{"a look that gives less", 4, []string{peer, other, peer}, false, 0, "2 of 3, 3, true"},
		{"a look from the same address", 1, []string{mine4}, false, 0, "1 of 1, 1, false"},
	} {
		for _, reported := range []bool{false, true} {
			you, escaped := "", `null`
			if reported && tt.member {
				you, escaped = "11:external ip4:"+string(netip.MustParseAddrPort(mine4).Addr().AsSlice()), `"`+mine4+`"`
			}
			count, jsonCount := "", ""
			if tt.count >= 0 {
				count, jsonCount = fmt.Sprintf("10:incompletei%de", tt.count), fmt.Sprintf(`"count":%d,`, tt.count)
			}
			for _, body := range []string{
				"d" + you + count + "8:intervali1800e" + records(tt.given...) + "e",
				`{"you":` + escaped + `,` + jsonCount + `"peers":["` + strings.Join(tt.given, `","`) + `"]}`,
			} {
				if body[0] == '{' && len(tt.given) == 0 {
					body = strings.Replace(body, `""`, "", 1)
				}
				if body[0] == '{' && strings.Contains(tt.about, "cannot be dialled") {
					body = strings.Replace(body, "192.0.2.9:1", "192.0.2.9:0", 1)
				}
				req := Request{Verb: VerbAnnounce, Port: 4000, Want: tt.want}
				if !tt.member {
					req = Request{Verb: VerbLook, Port: 1, Want: tt.want}
				}
				r, err := req.DecodeReply([]byte(body), netip.MustParseAddrPort(mine4))
				if err != nil {
					t.Fatal(err)
				}
				if got := fmt.Sprintf("%d of %d, %d, %v", len(r.Peers), r.Count, r.Others(), r.Sample); got != tt.result {
					t.Errorf("%s (reported %v): %s\nwant %s by %q", tt.about, reported, got, tt.result, body)
				}
				r.Merge(&Reply{Count: r.Count, Sample: true}, 0)
				if all := strings.Contains(tt.about, "cannot be dialled"); all && r.Sample {
					t.Errorf("%s: merged it is a sample", tt.about)
				}
			}
		}
	}
}

// The reply to a look has each endpoint once, too.
func TestDecodeRepeated(t *testing.T) {
	for body, want := range map[string]string{
		"d10:incompletei4e" + records(peer, peer, mine6, mine6) + "e":                   "2 of 2",
		"d10:incompletei1e" + records(peer, peer, mine6, mine6) + "e":                   "2 of 1",
		"d10:incompletei9e" + records(peer, peer) + "e":                                 "1 of 8",
		`{"count":3,"peers":["` + peer + `","` + peer + `","[::ffff:192.0.2.7]:4000"]}`: "1 of 1",
		peer + "\n" + peer + "\n":                                                       "1 of -1",
	} {
		r, err := decode([]byte(body))
		if err != nil {
			t.Fatal(err)
		}
		if got := fmt.Sprintf("%d of %d", len(r.Peers), r.Count); got != want {
			t.Errorf("%q: %s, want %s", body, got, want)
		}
	}
}

// If the tracker does not report the client's endpoint, the client finds its own entry by its peer id,
// which only dictionaries have, or by the address from which it connects.
func TestRepeatedSelf(t *testing.T) {
	id := ID([]byte("-NT0100-abcdefghijkl"))
	dict := func(ip string, port int, id string) string {
		return fmt.Sprintf("d2:ip%d:%s7:peer id20:%s4:porti%dee", len(ip), ip, id, port)
	}
	const stale = "-NT0100-zzzzzzzzzzzz"
	for about, tt := range map[string]struct {
		body   string
		port   uint16
		result string
	}{
		"its id": {"d10:incompletei2e5:peersl" + dict("203.0.113.9", 4000, string(id[:])) + dict("192.0.2.7", 4000, stale) + "ee", 4000, "[192.0.2.7:4000] 2"},
		"its id, behind another one of its endpoint": {"d10:incompletei3e5:peersl" + dict("203.0.113.9", 4000, stale) +
			dict("203.0.113.9", 4000, string(id[:])) + dict("192.0.2.7", 4000, stale) + "ee", 4000, "[192.0.2.7:4000] 2"},
		"its port of origin": {"d10:incompletei2e" + records("192.0.2.5:5000", peer) + "e", 0, "[192.0.2.7:4000] 2"},
	} {
		req := Request{Port: tt.port, ID: id}
		r, err := req.DecodeReply([]byte(tt.body), netip.MustParseAddrPort("192.0.2.5:5000"))
		if err != nil {
			t.Fatal(err)
		}
		if got := fmt.Sprint(r.Peers, r.Count); got != tt.result || r.Sample {
			t.Errorf("%s: %s, sample %v; want %s", about, got, r.Sample, tt.result)
		}
	}
}

// If the tracker reports the client's endpoint, the client removes only that. Its local endpoint may
// also be the endpoint of another peer.
func TestReplyBehindNAT(t *testing.T) {
	k, err := ParseKey("k")
	if err != nil {
		t.Fatal(err)
	}
	for you, want := range map[string]string{"": "[" + peer + "]", mine4: "[" + inside + " " + peer + "]"} {
		reply := &Reply{Count: 3, entries: 2}
		if you != "" {
			reply.You = endpointsOf(you)[0]
		}
		reply.Peers = endpointsOf(inside, peer)
		reply.finish(&Request{Key: k, Port: 4000}, endpointsOf(inside)[0])
		if got := fmt.Sprint(reply.Peers); got != want {
			t.Errorf("listed as %q: %v, want %v", you, got, want)
		}
	}
}

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
	withSelf := func(r *Reply, e string) *Reply {
		r.own = append(r.own, netip.MustParseAddrPort(e))
		return r
	}
	withUndialable := func(r *Reply, n int) *Reply {
		r.undialable = n
		return r
	}
	const a, b, c, me, me6 = "192.0.2.1:1", "192.0.2.2:2", "192.0.2.3:3", "192.0.2.9:9", "[2001:db8::9]:9"
	for _, m := range []struct {
		about  string
		r, o   *Reply
		want   int
		result string
	}{
		{"both families, which list each other", reply(me, 3, 60, false, a, me6), reply(me6, 3, 60, false, a, me), 0, me + " [" + me + " " + me6 + "] [" + a + "] 3 60 false"},
		{"two trackers with one peer in common", reply(me, 3, 60, false, a, b), reply(me, 3, 30, false, b, c), 0, me + " [" + me + "] [" + a + " " + b + " " + c + "] 4 30 false"},
		{"looks", reply("", 1, 60, false, a), reply("", 1, 0, false, b), 0, "invalid AddrPort [] [" + a + " " + b + "] 2 60 false"},
		{"a tracker that does not count", reply("", -1, 60, true, a), reply("", 5, 60, false, b), 0, "invalid AddrPort [] [" + a + " " + b + "] -1 60 false"},
		{"samples", reply("", 5, 60, true, a), reply("", 4, 60, true, b), 0, "invalid AddrPort [] [" + a + " " + b + "] 5 60 true"},
		{"more than are wanted", reply("", 2, 60, false, a, b), reply("", 1, 60, false, c), 2, "invalid AddrPort [] [" + a + " " + b + "] 3 60 true"},
		{"no peers are wanted", reply(me, 3, 60, true), reply(me6, 3, 60, true), NoPeers, me + " [" + me + " " + me6 + "] [] 3 60 true"},
		{"only the second reports the endpoint", reply("", 1, 60, false), reply(me, 1, 60, false), 0, me + " [" + me + "] [] 1 60 false"},
		{"both families, of which neither reports the endpoint", withSelf(reply("", 2, 60, false, me6, a), me), withSelf(reply("", 3, 60, false, a, me), me6), 0, "invalid AddrPort [] [" + a + "] 3 60 false"},
		{"both families, alone", withSelf(reply("", 1, 60, false), me), withSelf(reply("", 2, 60, false, me), me6), 0, "invalid AddrPort [] [] 2 60 false"},
		{"both families of a tracker that has a swarm for each", withSelf(reply("", 1, 60, false), me), withSelf(reply("", 1, 60, false), me6), 0, "invalid AddrPort [] [] 2 60 false"},
		{"only one family reports the endpoint", reply(me, 3, 60, false, a, me6), withSelf(reply("", 3, 60, false, a, me), me6), 0, me + " [" + me + "] [" + a + "] 3 60 false"},
		{"a connection from the endpoint that the other one reports", reply(me, 1, 60, false), withSelf(reply("", 2, 60, false, a), me), 0, me + " [" + me + "] [" + a + "] 2 60 false"},
		{"all that can be dialled", withUndialable(reply("", 2, 60, false, a), 1), withUndialable(reply("", 2, 60, false, a), 1), 0, "invalid AddrPort [] [" + a + "] 2 60 false"},
		{"a sample with some that cannot", withUndialable(reply("", 3, 60, true, a), 1), reply("", 1, 60, false, b), 0, "invalid AddrPort [] [" + a + " " + b + "] 3 60 false"},
		{"a sample of one", reply("", 9, 60, true, a), reply("", 1, 60, false, b), 0, "invalid AddrPort [] [" + a + " " + b + "] 9 60 true"},
		{"a sample, and one with some that cannot", reply("", 3, 60, true, a), withUndialable(reply("", 2, 60, false, b), 1), 0, "invalid AddrPort [] [" + a + " " + b + "] 3 60 false"},
		{"all that there is, whatever the count says", reply("", 3, 60, false, a), reply("", 1, 60, false, b), 0, "invalid AddrPort [] [" + a + " " + b + "] 3 60 false"},
		{"two peers each, one of them twice", reply("", 2, 60, false, a, a), reply("", 2, 60, false, b, a), 0, "invalid AddrPort [] [" + a + " " + b + "] 2 60 false"},
	} {
		m.r.Merge(m.o, m.want)
		if got := fmt.Sprintf("%v %v %v %d %d %v", m.r.You, m.r.Endpoints, m.r.Peers, m.r.Count, m.r.Interval, m.r.Sample); got != m.result {
			t.Errorf("%s: %s\nwant %s", m.about, got, m.result)
		}
	}
}

// The count of a track is the highest in all indexes.
func TestMergeTracks(t *testing.T) {
	track := func(key string, n int) Track { return Track{KeyOf([]byte(key)), n} }
	got := MergeTracks([]Track{track("b", 2), track("c", 1)}, nil, []Track{track("a", 1), track("b", 3)}, []Track{track("b", 1)})
	if want := []Track{track("a", 1), track("b", 3), track("c", 1)}; fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("got %v, want %v", got, want)
	}
}
