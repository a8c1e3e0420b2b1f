package tracker_test

import (
	"context"
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"ntrack/tracker"
)

// A stranger sends requests to a tracker from one address.
type stranger struct {
	t       *testing.T
	tracker *tracker.Tracker
	call    tracker.Call
	buf     []byte
}

func newStranger(t *testing.T, tr *tracker.Tracker, from string) *stranger {
	return &stranger{t: t, tracker: tr, call: tracker.Call{Remote: netip.AddrPortFrom(netip.MustParseAddr(from), 1), Accept: []byte("text/plain")}}
}

// ask sends a request. It ends a stream at once. body is valid until the next call.
func (s *stranger) ask(method, target string) (resp tracker.Response, body string) {
	call := s.call
	call.Method, call.Target = method, []byte(target)
	resp, s.buf = s.tracker.Answer(context.Background(), &call, s.buf[:0])
	if resp.Stream != nil {
		resp.Stream.Close()
	}
	return resp, string(s.buf)
}

// served sends the request of each number until one is refused, and returns how many were served.
func (s *stranger) served(most int, method string, target func(int) string) (n int) {
	for ; n < most; n++ {
		if resp, body := s.ask(method, target(n)); resp.Status == 503 || strings.Contains(body, "failure reason") {
			return n
		}
	}
	return n
}

func always(target string) func(int) string { return func(int) string { return target } }

// A client may do so much at once, and is then refused until it has waited. It costs the clients of
// other addresses nothing.
func TestLimitsByAddress(t *testing.T) {
	for _, tt := range []struct {
		name, method, target, accept string
		burst                        int // requests that are served; 0 is no limit
		reason                       string
	}{
		{"announces", "GET", "/ntrk/k?port=4000", "", 20_000, "rate_announces"},
		{"announces that want 200", "GET", "/ntrk/k?port=4000&numwant=200", "", 20_000, "rate_announces"},
		{"announces that want 201", "GET", "/ntrk/k?port=4000&numwant=201", "", 10_000, "rate_announces"},
		{"announces that want 1000", "GET", "/ntrk/k?port=4000&numwant=1000", "", 20_000 / 17, "rate_announces"},
		{"classic announces", "GET", "/announce?info_hash=k&port=4000&compact=1", "", 20_000, "rate_announces"},
		{"announces for dictionaries", "GET", "/announce?info_hash=k&port=4000", "", 20_000, "rate_announces"},
		{"looks", "GET", "/ntrk/k?port=0", "", 10_000, "rate_looks"},
		{"looks for 1000", "GET", "/ntrk/k?port=0&numwant=1000", "", 10_000 / 17, "rate_looks"},
		{"looks for 200 dictionaries", "GET", "/announce?info_hash=k&port=0&numwant=1000", "", 10_000 / 7, "rate_looks"},
		{"looks for 50 labels", "GET", "/ntrk/k?port=0&format=json&labels=1", "", 10_000, "rate_looks"},
		{"looks for 1000 labels", "GET", "/ntrk/k?port=0&numwant=1000&format=json&labels=1", "", 10_000 / 39, "rate_looks"},
		{"scrapes", "GET", "/scrape?info_hash=k", "", 10_000, "rate_looks"},
		{"scrapes of 25 keys", "GET", "/scrape?info_hash=k" + strings.Repeat("&info_hash=k", 24), "", 10_000 / 3, "rate_looks"},
		{"the index", "GET", "/ntrk/", "", 10_000 / 4, "rate_looks"}, // of 31 keys
		{"streams", "GET", "/ntrk/k?port=0", "text/event-stream", 2000, "rate_streams"},
		{"streams that join", "GET", "/ntrk/k1?port=1", "text/event-stream", 2000, "rate_streams"},
		{"leaves", "DELETE", "/ntrk/k?port=4000", "", 0, ""},
		{"classic leaves", "GET", "/announce?info_hash=k&port=4000&event=stopped", "", 10_000, "rate_looks"}, // the reply has the count of a look
		{"requests of browsers", "OPTIONS", "/ntrk/k", "", 0, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				tr := &tracker.Tracker{Index: true}
				local := newStranger(t, tr, "127.0.0.1")
				for i := range 31 {
					local.ask("GET", fmt.Sprintf("/ntrk/k%d?port=1", i))
				}
				s := newStranger(t, tr, "192.0.2.1")
				if tt.accept != "" {
					s.call.Accept = []byte(tt.accept)
				}
				const most = 25_000
				n := s.served(most, tt.method, always(tt.target))
				if tt.burst == 0 {
					if n < most {
						t.Errorf("request %d is refused", n)
					}
					return
				}
				if n != tt.burst {
					t.Errorf("%d are served, want %d", n, tt.burst)
				}
				resp, body := s.ask(tt.method, tt.target)
				wait := resp.Retry
				if strings.HasPrefix(tt.target, "/ntrk/") {
					want := fmt.Sprintf("from this address: wait %d s", wait/time.Second)
					if resp.Status != 503 || wait < time.Second || wait > 4*time.Second || wait%time.Second != 0 || !strings.HasSuffix(strings.TrimRight(body, "\"}\n"), want) {
						t.Errorf("status %d, Retry-After %v, %q", resp.Status, wait, body)
					}
				} else {
					if resp.Status != 200 || !strings.Contains(body, " from this address: wait 60 s8:interval") || !strings.HasSuffix(body, "8:retry ini1ee") {
						t.Errorf("status %d, %q", resp.Status, body)
					}
					wait = time.Second
				}
				for reason, n := range tr.Stats().Reasons {
					if (n > 0) != (reason == tt.reason) {
						t.Errorf("%d for the reason %s", n, reason)
					}
				}
				for _, other := range []string{"192.0.2.2", "2001:db8::1"} {
					if n := newStranger(t, tr, other).served(1, tt.method, always(tt.target)); n != 1 {
						t.Errorf("%s is refused", other)
					}
				}
				if n := local.served(most, tt.method, always(tt.target)); n != most {
					t.Errorf("request %d of this machine is refused", n)
				}
				time.Sleep(wait)
				if n := s.served(1, tt.method, always(tt.target)); n != 1 {
					t.Errorf("it is refused after the wait of %v", wait)
				}
			})
		})
	}
}

// A client that has made too many new keys may do anything else, and may join keys that exist.
func TestLimitOfNewKeys(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tr := &tracker.Tracker{}
		newStranger(t, tr, "192.0.2.2").ask("GET", "/ntrk/other?port=1")
		s := newStranger(t, tr, "192.0.2.1")
		newKey := func(i int) string { return fmt.Sprintf("/ntrk/k%d?port=4000", i) }
		if n := s.served(11_000, "GET", newKey); n != 10_000 {
			t.Errorf("%d new keys, want 10,000", n)
		}
		s.call.Accept = []byte("text/event-stream")
		if resp, body := s.ask("GET", "/ntrk/new?port=4000"); resp.Status != 503 || !strings.HasPrefix(body, "too many new keys from this address: wait ") {
			t.Errorf("a stream for a new key: status %d, %q", resp.Status, body)
		}
		for _, target := range []string{"/ntrk/other?port=4000", "/ntrk/k7?port=4000", "/ntrk/new?port=0"} {
			if resp, body := s.ask("GET", target); resp.Status != 200 {
				t.Errorf("a stream for %s: status %d, %q", target, resp.Status, body)
			}
		}
		s.call.Accept = []byte("text/plain")
		resp, body := s.ask("GET", "/ntrk/new?port=4000")
		if resp.Status != 503 || resp.Retry < time.Second || !strings.HasPrefix(body, "too many new keys from this address: wait ") {
			t.Errorf("a new key: status %d, Retry-After %v, %q", resp.Status, resp.Retry, body)
		}
		if _, body := s.ask("GET", "/announce?info_hash=new&port=4000"); !strings.Contains(body, "too many new keys") {
			t.Errorf("a classic new key: %q", body)
		}
		for i := range 9000 { // each is the only peer of its key
			if resp, body := s.ask("GET", newKey(i)); resp.Status != 200 {
				t.Fatalf("renewal %d: status %d, %q", i, resp.Status, body)
			}
		}
		if n := tr.Stats().Reasons["rate_keys"]; n != 4 {
			t.Errorf("%d refusals, want 4", n)
		}
		waits := make(map[time.Duration]bool) // clients that are refused together do not come back together
		for range 100 {
			resp, _ := s.ask("GET", "/ntrk/new?port=4000")
			waits[resp.Retry] = true
		}
		if len(waits) < 2 || waits[0] {
			t.Errorf("the waits are %v", waits)
		}
		if resp, _ := newStranger(t, tr, "192.0.2.3").ask("GET", "/ntrk/new?port=4000"); resp.Status != 200 {
			t.Errorf("another address: status %d", resp.Status)
		}
		time.Sleep(time.Second)
		if n := s.served(1000, "GET", func(i int) string { return fmt.Sprintf("/ntrk/later%d?port=4000", i) }); n != 100 {
			t.Errorf("%d new keys after a second, want 100", n)
		}
	})
}

// A peer pays for a new key if it is the first one of the key, by an announce or by a stream. It does
// not pay if it renews, or if it comes to a key that exists.
func TestOnlyNewKeysCount(t *testing.T) {
	for _, tt := range []struct {
		name, accept, target string
		calls                int
		left                 int // new keys that it may make after that
	}{
		{"a lone peer renews", "", "/ntrk/old?port=1", 9000, 10_000},
		{"a peer joins a young key", "", "/ntrk/young?port=2", 9000, 10_000},
		{"announces to new keys", "", "/ntrk/%d?port=1", 7000, 3000},
		{"streams that join new keys", "text/event-stream", "/ntrk/%d?port=1", 2000, 8000},
		{"streams that look at a young key", "text/event-stream", "/ntrk/young?port=0", 2000, 10_000},
		{"streams that look at new keys", "text/event-stream", "/ntrk/%d?port=0", 2000, 10_000},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				tr := &tracker.Tracker{}
				local := newStranger(t, tr, "127.0.0.1")
				s := newStranger(t, tr, "192.0.2.1")
				s.ask("GET", "/ntrk/old?port=1")
				time.Sleep(2 * time.Second)
				local.ask("GET", "/ntrk/young?port=1")
				s.call.Accept = []byte(tt.accept)
				for i := range tt.calls {
					target := strings.ReplaceAll(tt.target, "%d", fmt.Sprint(i))
					if resp, body := s.ask("GET", target); resp.Status != 200 {
						t.Fatalf("call %d: status %d, %q", i, resp.Status, body)
					}
				}
				s.call.Accept = nil
				if n := s.served(10_500, "GET", func(i int) string { return fmt.Sprintf("/ntrk/k%d?port=1", i) }); n != tt.left {
					t.Errorf("%d new keys, want %d", n, tt.left)
				}
			})
		})
	}
}

// Peers that come to a key within its first second use one new key together.
func TestOneKeyCountsOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newStranger(t, &tracker.Tracker{}, "192.0.2.1")
		for i := range 9000 {
			s.ask("GET", fmt.Sprintf("/ntrk/k?port=%d", 1+i))
		}
		if n := s.served(10_000, "GET", func(i int) string { return fmt.Sprintf("/ntrk/k%d?port=1", i) }); n != 9999 {
			t.Errorf("%d new keys, want 9999", n)
		}
	})
}

// After a burst, so much is allowed in each second.
func TestLimitsInTheLongRun(t *testing.T) {
	for target, want := range map[string]int{"/ntrk/k?port=4000": 4000, "/ntrk/k?port=0": 4000, "/ntrk/k?port=0 stream": 400} {
		synctest.Test(t, func(t *testing.T) {
			s := newStranger(t, &tracker.Tracker{}, "192.0.2.1")
			target, _, isStream := strings.Cut(target, " ")
			if isStream {
				s.call.Accept = []byte("text/event-stream")
			}
			if n := s.served(25_000, "GET", always(target)); n == 25_000 {
				t.Fatalf("%s has no limit", target)
			}
			time.Sleep(4 * time.Second)
			if n := s.served(25_000, "GET", always(target)); n != want {
				t.Errorf("%s: %d in 4 seconds, want %d", target, n, want)
			}
		})
	}
}

// The index of a tracker with many keys costs half of a burst at most.
func TestLimitOfLargeIndex(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tr := &tracker.Tracker{Index: true}
		local := newStranger(t, tr, "127.0.0.1")
		for i := range 60_000 {
			local.ask("GET", fmt.Sprintf("/ntrk/k%d?port=1", i))
		}
		if n := newStranger(t, tr, "192.0.2.1").served(10, "GET", always("/ntrk/")); n != 2 {
			t.Errorf("%d times, want 2", n)
		}
	})
}

// Behind a trusted proxy the address of the client counts, and that of the proxy does not.
func TestLimitsBehindProxy(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tr := &tracker.Tracker{Proxies: []netip.Prefix{netip.MustParsePrefix("198.51.100.0/24")}}
		s := newStranger(t, tr, "198.51.100.1")
		for _, client := range []string{"203.0.113.1", "203.0.113.2", "2001:db8::1"} {
			s.call.ForwardedFor = []byte(client)
			if n := s.served(11_000, "GET", always("/ntrk/k?port=0")); n != 10_000 {
				t.Errorf("%s: %d looks, want 10,000", client, n)
			}
		}
		// Another address of the same /64 shares its limit.
		s.call.ForwardedFor = []byte("2001:db8::2")
		if n := s.served(1, "GET", always("/ntrk/k?port=0")); n != 0 {
			t.Error("another address of the /64 is served")
		}
	})
}

// A network in Exempt has no limit, and a tracker that exempts nobody limits this machine, too.
func TestExemptFromLimits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tr := &tracker.Tracker{Exempt: []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24")}}
		newKey := func(i int) string { return fmt.Sprintf("/ntrk/k%d?port=4000", i) }
		if n := newStranger(t, tr, "192.0.2.1").served(25_000, "GET", newKey); n != 25_000 {
			t.Errorf("the exempt network: %d, want 25,000", n)
		}
		if n := newStranger(t, tr, "127.0.0.1").served(25_000, "GET", always("/ntrk/k?port=0")); n != 10_000 {
			t.Errorf("this machine: %d looks, want 10,000", n)
		}
	})
}
