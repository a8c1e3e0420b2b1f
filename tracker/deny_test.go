package tracker_test

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"

	"ntrack/announce/wire"
	"ntrack/tracker"
	"ntrack/tracker/store"
	"ntrack/tracker/store/memory"
)

func denial(t testing.TB, lines ...string) *tracker.Denial {
	t.Helper()
	d, err := tracker.ParseDenial(strings.Join(lines, "\n"))
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func TestParseDenialErrors(t *testing.T) {
	for text, want := range map[string]string{
		"key a\nkeys b":                   `line 2: "keys": a line is`,
		"\n# x\nnet 10.0.0.0/33":          `line 3: net "10.0.0.0/33": a network such as`,
		"net":                             `line 1: net "": a network`,
		"net ::ffff:10.0.0.0/95":          `line 1: net "::ffff:10.0.0.0/95": a network`, // its addresses are not IPv4 addresses
		"net fe80::1%eth0":                `line 1: net "fe80::1%eth0"`,
		"net 10.0.0.0/8 # home":           `line 1: net "10.0.0.0/8 # home"`,
		"key":                             `line 1: the key is empty`,
		"key " + strings.Repeat("x", 256): `line 1: key of 256 bytes`,
		"key urn:btih:12":                 `line 1: key "urn:btih:12": an info_hash`,
		"192.0.2.1":                       `line 1: "192.0.2.1": a line is "net CIDR"`,
	} {
		if d, err := tracker.ParseDenial(text); err == nil || !strings.HasPrefix(err.Error(), want) || d != nil {
			t.Errorf("%q: %v, want %s...", text, err, want)
		}
	}
}

// denies says whether a tracker with d refuses a look at this key by this client.
func denies(t testing.TB, d *tracker.Denial, key, client string) bool {
	t.Helper()
	tr := &tracker.Tracker{Denial: d}
	target := append(wire.AppendEscaped([]byte("/ntrk/"), []byte(key)), "?port=0"...)
	resp, _ := tr.Answer(context.Background(), &tracker.Call{Method: "GET", Target: target, Remote: netip.AddrPortFrom(netip.MustParseAddr(client), 1)}, nil)
	return resp.Status == 404
}

func TestDenialMatches(t *testing.T) {
	hash := strings.Repeat("\xab", 20)
	other := wire.KeyOf([]byte("lobby")).InfoHash()
	d := denial(t, "# comment", "", " key  lobby \r", "key "+strings.Repeat("ab", 20), "key two words",
		"net 10.0.0.0/8", "net 10.1.0.0/16", "net 10.1.2.3/32", "net 192.0.2.7", "net 198.51.100.9/24",
		"net ::ffff:203.0.113.0/120", "net 2001:db8::/32", "net 2001:db8:1::/48")
	for _, c := range []struct {
		key, client string
		want        bool
	}{
		{"lobby", "9.9.9.9", true}, {"Lobby", "9.9.9.9", false}, {"lobby ", "9.9.9.9", false}, {string(other[:]), "9.9.9.9", true},
		{hash, "9.9.9.9", true}, {strings.Repeat("ab", 20), "9.9.9.9", true}, {"two words", "9.9.9.9", true}, {"two", "9.9.9.9", false},
		{"k", "10.0.0.0", true}, {"k", "10.255.255.255", true}, {"k", "10.1.2.4", true}, {"k", "9.255.255.255", false}, {"k", "11.0.0.0", false},
		{"k", "192.0.2.7", true}, {"k", "192.0.2.8", false}, {"k", "192.0.2.6", false}, {"k", "198.51.100.1", true}, {"k", "198.51.101.0", false},
		{"k", "203.0.113.200", true}, {"k", "::ffff:203.0.113.1", true}, {"k", "203.0.114.0", false},
		{"k", "2001:db8:ffff::1", true}, {"k", "2001:db8:1::1", true}, {"k", "2001:db9::", false}, {"k", "::a00:1", false},
	} {
		if got := denies(t, d, c.key, c.client); got != c.want {
			t.Errorf("key %q from %s: denied %v, want %v", c.key, c.client, got, c.want)
		}
	}
	if keys, nets := d.Len(); keys != 3 || nets != 8 {
		t.Errorf("the list has %d keys and %d networks", keys, nets)
	}
}

// A network denies all of itself, also if a smaller one begins at the same address.
func TestDenialSameBeginning(t *testing.T) {
	for _, lines := range [][]string{{"net 10.0.0.0/8", "net 10.0.0.0/16"}, {"net 10.0.0.0/16", "net 10.0.0.0/8"}} {
		if !denies(t, denial(t, lines...), "k", "10.1.0.1") {
			t.Errorf("%q do not deny 10.1.0.1", lines)
		}
	}
}

// What is listed under a denied key goes at once, and so do the streams of denied keys and networks.
func TestSetDenial(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tr := &tracker.Tracker{Index: true}
		ask := func(target, from string, accept string) (tracker.Response, string) {
			resp, body := tr.Answer(t.Context(), &tracker.Call{Method: "GET", Target: []byte(target), Remote: netip.MustParseAddrPort(from), Accept: []byte(accept)}, nil)
			if resp.Stream != nil {
				t.Cleanup(resp.Stream.Close)
			}
			return resp, string(body)
		}
		open := func(target, from string) *tracker.Stream {
			resp, _ := ask(target, from, "text/event-stream")
			if resp.Stream == nil {
				t.Fatalf("no stream: %d", resp.Status)
			}
			return resp.Stream
		}
		live := func(s *tracker.Stream) bool {
			_, live := s.Append(nil, wake{})
			return live
		}
		ask("/ntrk/a", "192.0.2.1:1", "")
		ask("/ntrk/b", "192.0.2.1:1", "")
		holds, looks := open("/ntrk/a?port=2", "192.0.2.2:9"), open("/ntrk/a?port=0", "192.0.2.3:9")
		denied, denied6, stays := open("/ntrk/b?port=3", "198.51.100.1:3"), open("/ntrk/b?port=3", "[2001:db8::1]:3"), open("/ntrk/b?port=4", "192.0.2.4:4")
		if err := tr.SetDenial(t.Context(), denial(t, "key a", "net 198.51.100.0/24", "net 2001:db8::/32")); err != nil {
			t.Fatal(err)
		}
		for name, s := range map[string]*tracker.Stream{"of a peer": holds, "of a looker": looks, "of a network": denied, "of an IPv6 network": denied6} {
			if live(s) {
				t.Errorf("the stream %s has not ended", name)
			}
			s.Close()
		}
		if !live(stays) {
			t.Error("another stream has ended")
		}
		if _, body := ask("/ntrk/?format=text", "192.0.2.9:9", ""); body != "b 2\n" {
			t.Errorf("the index is %q", body)
		}
		if resp, _ := ask("/ntrk/a", "192.0.2.9:9", ""); resp.Status != 404 {
			t.Errorf("an announce of a denied key has status %d", resp.Status)
		}
		if err := tr.SetDenial(t.Context(), nil); err != nil {
			t.Fatal(err)
		}
		if resp, body := ask("/ntrk/a?format=text&port=0", "192.0.2.9:9", ""); resp.Status != 200 || body != "" {
			t.Errorf("a look at a key that was denied: %d %q", resp.Status, body)
		}
		if _, body := ask("/scrape?info_hash=a", "192.0.2.9:9", ""); !strings.Contains(body, "incompletei0e") {
			t.Errorf("a scrape of a key that was denied: %q", body)
		}
	})
}

// An announce that SetDenial overtakes leaves no peer behind, whatever the order.
func TestSetDenialRace(t *testing.T) {
	tr := &tracker.Tracker{}
	list, target := denial(t, "key a"), "/ntrk/a?port=%d"
	for round := range 200 {
		var asking sync.WaitGroup
		for i := range 4 {
			asking.Go(func() {
				accept := ""
				if i == 3 {
					accept = "text/event-stream"
				}
				resp, _ := tr.Answer(t.Context(), &tracker.Call{Method: "GET", Target: fmt.Appendf(nil, target, i+1), Remote: netip.MustParseAddrPort("192.0.2.1:1"), Accept: []byte(accept)}, nil)
				if resp.Stream != nil {
					for live := true; live; {
						_, live = resp.Stream.Append(nil, wake{})
					}
					resp.Stream.Close()
				}
			})
		}
		if err := tr.SetDenial(t.Context(), list); err != nil {
			t.Fatal(err)
		}
		asking.Wait()
		_ = tr.SetDenial(t.Context(), nil)
		if _, body := tr.Answer(t.Context(), &tracker.Call{Method: "GET", Target: []byte("/ntrk/a?port=0&format=text"), Remote: netip.MustParseAddrPort("192.0.2.1:1")}, nil); len(body) > 0 {
			t.Fatalf("round %d: still listed: %q", round, body)
		}
	}
}

// A removals is a store that records the keys that it was asked to remove.
type removals struct {
	memory.Store
	keys []string
	err  error
}

func (r *removals) Remove(_ context.Context, key []byte) error {
	if len(key) < 20 { // not an info_hash
		r.keys = append(r.keys, string(key))
	}
	return r.err
}

// A list that was read again costs only what is new in it. After an error of the store, the tracker
// tries all keys again.
func TestSetDenialAgain(t *testing.T) {
	r := new(removals)
	tr := &tracker.Tracker{Store: r, Denial: denial(t, "key a")}
	for _, c := range []struct {
		list []string
		err  error
		want string
	}{
		{[]string{"key a"}, nil, ""},
		{[]string{"key a", "key b"}, nil, "b"},
		{[]string{"key b"}, nil, ""},
		{[]string{"key a", "key b"}, nil, "a"},
		{[]string{"key a", "key c"}, errors.New("broken"), "c"},
		{[]string{"key a", "key c"}, nil, "a c"},
		{[]string{"key a", "key c"}, nil, ""},
	} {
		r.keys, r.err = nil, c.err
		if err := tr.SetDenial(t.Context(), denial(t, c.list...)); !errors.Is(err, c.err) {
			t.Errorf("%q: %v, want %v", c.list, err, c.err)
		}
		slices.Sort(r.keys)
		if got := strings.Join(r.keys, " "); got != c.want {
			t.Errorf("%q: removed %q, want %q", c.list, got, c.want)
		}
	}
}

// An opening is a store that calls a function before each subscription.
type opening struct {
	*memory.Store
	before func()
}

func (o *opening) Subscribe(ctx context.Context, key []byte, peer wire.Peer, notify func(), dst []wire.Peer) ([]wire.Peer, store.Size, store.Subscription, error) {
	o.before()
	return o.Store.Subscribe(ctx, key, peer, notify, dst)
}

// If the list changes while a stream opens, the stream ends only if the new list denies it.
func TestSetDenialWhileAStreamOpens(t *testing.T) {
	for _, c := range []struct {
		list []string
		live bool
	}{
		{nil, true},
		{[]string{"key other", "net 198.51.100.0/24"}, true},
		{[]string{"key k"}, false},
		{[]string{"net 192.0.2.0/24"}, false},
	} {
		o := &opening{Store: memory.New()}
		tr := &tracker.Tracker{Store: o, Denial: denial(t, "key before")}
		o.before = func() { _ = tr.SetDenial(t.Context(), denial(t, c.list...)) }
		call := &tracker.Call{Method: "GET", Target: []byte("/ntrk/k?port=4000"), Remote: netip.MustParseAddrPort("192.0.2.1:1"), Accept: []byte("text/event-stream")}
		resp, body := tr.Answer(t.Context(), call, nil)
		if resp.Stream == nil {
			t.Fatalf("%q: %q", c.list, body)
		}
		if _, live := resp.Stream.Append(nil, nil); live != c.live {
			t.Errorf("%q: live %v, want %v", c.list, live, c.live)
		}
		resp.Stream.Close()
	}
}

func FuzzParseDenial(f *testing.F) {
	for _, seed := range []string{"key a\nnet 10.0.0.0/8\n# c\n", "net ::/0", "key urn:btih:" + strings.Repeat("ab", 20), "net ::ffff:1.2.3.4/96", "key\ta\r\n", "net 0.0.0.0/0\nnet 10.0.0.0/8"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		d, err := tracker.ParseDenial(text)
		if err != nil {
			if strings.ContainsAny(err.Error(), "\n\x1b") {
				t.Errorf("the error is not one line: %q", err)
			}
			return
		}
		// Each network denies its own address, whatever other networks there are.
		for line := range strings.Lines(text) {
			what, value, _ := strings.Cut(strings.TrimSpace(line), " ")
			if p, err := netip.ParsePrefix(strings.TrimSpace(value)); what == "net" && err == nil && !denies(t, d, "k", p.Addr().String()) {
				t.Errorf("%q does not deny %v", text, p)
			}
		}
	})
}

func BenchmarkDenial(b *testing.B) {
	var lines []string
	for i := range 50_000 {
		lines = append(lines, fmt.Sprintf("key key-%d", i), fmt.Sprintf("net 10.%d.%d.0/25", i>>8, i&255))
	}
	tr := &tracker.Tracker{Denial: denial(b, lines...)}
	var dst []byte
	for b.Loop() {
		_, dst = tr.Answer(context.Background(), &tracker.Call{Method: "GET", Target: []byte("/ntrk/k?port=0"), Remote: netip.MustParseAddrPort("192.0.2.1:1")}, dst[:0])
	}
}
