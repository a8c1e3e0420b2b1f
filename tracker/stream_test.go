package tracker_test

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"ntrack/announce/wire"
	"ntrack/tracker"
	"ntrack/tracker/store"
	"ntrack/tracker/store/memory"
)

// pipes is a listener in memory. It accepts the connections that are sent to its channel.
type pipes chan net.Conn

func (p pipes) Accept() (net.Conn, error) {
	if c, ok := <-p; ok {
		return c, nil
	}
	return nil, net.ErrClosed
}
func (p pipes) Close() error   { close(p); return nil }
func (p pipes) Addr() net.Addr { return &net.TCPAddr{IP: net.IPv4(192, 0, 2, 80), Port: 80} }

type fromSomewhere struct{ net.Conn }

func (fromSomewhere) RemoteAddr() net.Addr {
	return &net.TCPAddr{IP: net.IPv4(192, 0, 2, 1), Port: 1001}
}

func (p pipes) dial() net.Conn {
	client, server := net.Pipe()
	p <- fromSomewhere{server}
	return client
}

// list returns the peers of the key k, one per line.
func list(t *testing.T, tr *tracker.Tracker) string {
	t.Helper()
	call := tracker.Call{Method: "GET", Target: []byte("/ntrk/k?port=0&format=text"), Remote: netip.MustParseAddrPort("127.0.0.1:1")}
	_, body := tr.Answer(t.Context(), &call, nil)
	return string(body)
}

// The timeouts of a net/http server do not end a stream. Its peer leaves when the connection ends.
// Shutdown ends the stream.
func TestHandlerStream(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tr := &tracker.Tracker{}
		server := &http.Server{Handler: tracker.Handler(tr), ReadTimeout: time.Second, WriteTimeout: time.Second, IdleTimeout: time.Second}
		server.RegisterOnShutdown(tr.EndStreams)
		l := make(pipes)
		ended := make(chan error)
		go func() { ended <- server.Serve(l) }()
		open := func() (net.Conn, *bufio.Reader) {
			c := l.dial()
			if _, err := io.WriteString(c, "GET /ntrk/k?port=4000 HTTP/1.1\r\nHost: t\r\nAccept: text/event-stream\r\n\r\n"); err != nil {
				t.Fatal(err)
			}
			return c, bufio.NewReader(c)
		}
		a, r := open()
		beats := make(chan int)
		go func() {
			all, _ := io.ReadAll(r)
			beats <- strings.Count(string(all), "\n:\n")
		}()
		time.Sleep(time.Hour)
		if l := list(t, tr); l != "192.0.2.1:4000\n" {
			t.Errorf("listed: %q", l)
		}
		a.Close()
		if n := <-beats; n != 239 && n != 240 {
			t.Errorf("%d heartbeats in an hour", n)
		}
		synctest.Wait()
		if l := list(t, tr); l != "" || tr.Streams() != 0 {
			t.Errorf("listed: %q, and %d streams", l, tr.Streams())
		}

		_, r = open()
		began := time.Now()
		shutdown := make(chan error)
		go func() {
			synctest.Wait()
			shutdown <- server.Shutdown(context.Background())
		}()
		all, err := io.ReadAll(r)
		if err != nil || !strings.Contains(string(all), "\n\nretry: ") || !strings.HasSuffix(string(all), "\n\n") {
			t.Errorf("%q, %v", all, err)
		}
		// net/http closes idle connections only from time to time.
		if err := <-shutdown; err != nil || time.Since(began) > 2*time.Second {
			t.Errorf("shutdown: %v after %v", err, time.Since(began))
		}
		<-ended
		// A stream that opens after Shutdown ends at once.
		call := tracker.Call{Method: "GET", Target: []byte("/ntrk/k?port=4000"), Remote: netip.MustParseAddrPort("192.0.2.1:1"), Accept: []byte("text/event-stream")}
		resp, _ := tr.Answer(t.Context(), &call, nil)
		if out, live := resp.Stream.Append(nil, nil); live || !strings.HasPrefix(string(out), "retry: ") {
			t.Errorf("after the end: %q, %v", out, live)
		}
		resp.Stream.Close()
	})
}

// Over HTTP/2 a stream can end while its connection stays open.
func TestHandlerStreamHTTP2(t *testing.T) {
	tr := &tracker.Tracker{}
	srv := httptest.NewUnstartedServer(tracker.Handler(tr))
	srv.EnableHTTP2 = true
	srv.StartTLS()
	defer srv.Close()
	req, err := http.NewRequestWithContext(t.Context(), "GET", srv.URL+"/ntrk/k?port=4000", nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Accept", "text/event-stream")
	resp, err := srv.Client().Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	r := bufio.NewReader(resp.Body)
	if line, err := r.ReadString('\n'); err != nil || line != "event: you\n" || resp.ProtoMajor != 2 {
		t.Errorf("%s: %q, %v", resp.Proto, line, err)
	}
	if l := list(t, tr); l != "127.0.0.1:4000\n" {
		t.Errorf("listed: %q", l)
	}
	resp.Body.Close()
	for deadline := time.Now().Add(10 * time.Second); list(t, tr) != ""; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("the client is gone and its peer still listed")
		}
	}
}

// A stream of a track that is too large is refused without Retry-After, because the client may
// announce at once instead.
func TestStreamRefused(t *testing.T) {
	tr := &tracker.Tracker{}
	for i := range 10_001 {
		call := tracker.Call{Method: "GET", Target: fmt.Appendf(nil, "/ntrk/k?port=%d", 1+i), Remote: netip.MustParseAddrPort("192.0.2.1:1")}
		tr.Answer(t.Context(), &call, nil)
	}
	call := tracker.Call{Method: "GET", Target: []byte("/ntrk/k?port=0"), Remote: netip.MustParseAddrPort("192.0.2.1:1"), Accept: []byte("text/event-stream")}
	resp, body := tr.Answer(t.Context(), &call, nil)
	if resp.Status != 503 || resp.Retry != 0 || resp.Stream != nil || string(body) != "too many peers of this key for an event stream: at most 10000\n" {
		t.Errorf("%+v, %s", resp, body)
	}
}

// The epoch is that of the store. A client that moves to another tracker of the same store finds
// the same peers, and a restarted tracker with a new store has another epoch.
func TestEpochOfStore(t *testing.T) {
	epoch := func(tr *tracker.Tracker) string {
		call := tracker.Call{Method: "GET", Target: []byte("/ntrk/k?port=0"), Remote: netip.MustParseAddrPort("192.0.2.1:1"), Accept: []byte("text/event-stream")}
		resp, body := tr.Answer(t.Context(), &call, nil)
		defer resp.Stream.Close()
		_, id, _ := strings.Cut(string(body), "\nid: ")
		id, _, _ = strings.Cut(id, "\n")
		return id
	}
	table := memory.New()
	a, b, other := epoch(&tracker.Tracker{Store: table}), epoch(&tracker.Tracker{Store: table}), epoch(&tracker.Tracker{})
	if a == "" || a != b || a == other {
		t.Errorf("over one store the epochs %q and %q, over another %q", a, b, other)
	}
}

// If Append has appended something, even a heartbeat, the stream does not wake the server before it
// calls Append again. The server may still be writing, and must not write later events first.
func TestStreamWakes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tr := new(tracker.Tracker)
		resp, _ := tr.Answer(t.Context(), &tracker.Call{Method: "GET", Target: []byte("/ntrk/k?port=0"),
			Remote: netip.MustParseAddrPort("192.0.2.9:1"), Accept: []byte("text/event-stream")}, nil)
		defer resp.Stream.Close()
		resp.Stream.KeepAlive()
		var wakes counter
		next := func(want string) {
			t.Helper()
			got, live := resp.Stream.Append(nil, &wakes)
			if string(got) != want || !live {
				t.Fatalf("Append appends %q, live %v; want %q", got, live, want)
			}
		}
		expectWakes := func(want counter) {
			t.Helper()
			synctest.Wait()
			if wakes != want {
				t.Fatalf("woken %d times, want %d", wakes, want)
			}
		}
		next("")
		time.Sleep(15 * time.Second)
		expectWakes(1)
		next(":\n\n")
		tr.Answer(t.Context(), &tracker.Call{Method: "GET", Target: []byte("/ntrk/k?port=4000"), Remote: netip.MustParseAddrPort("192.0.2.1:1")}, nil)
		time.Sleep(time.Second)
		expectWakes(1)
		next("event: join\ndata: 192.0.2.1:4000\n\n")
		next("")
		expectWakes(1)
		// The stream wakes the server once, even if there are several events.
		tr.Answer(t.Context(), &tracker.Call{Method: "GET", Target: []byte("/ntrk/k?port=4001"), Remote: netip.MustParseAddrPort("192.0.2.1:1")}, nil)
		time.Sleep(20 * time.Second)
		expectWakes(2)
		next("event: join\ndata: 192.0.2.1:4001\n\n") // without a heartbeat, which was also due
		next("")
		resp.Stream.Close() // after this the stream does not wake the server
		tr.Answer(t.Context(), &tracker.Call{Method: "GET", Target: []byte("/ntrk/k?port=4002"), Remote: netip.MustParseAddrPort("192.0.2.1:1")}, nil)
		tr.EndStreams()
		time.Sleep(40 * time.Second)
		expectWakes(2)
	})
}

// A store may notify a stream once more after its end. Then the stream does not wake the server.
func TestStreamWakesNotAfterClose(t *testing.T) {
	st := &notifier{Store: memory.New()}
	tr := &tracker.Tracker{Store: st}
	resp, _ := tr.Answer(t.Context(), &tracker.Call{Method: "GET", Target: []byte("/ntrk/k?port=0"),
		Remote: netip.MustParseAddrPort("192.0.2.9:1"), Accept: []byte("text/event-stream")}, nil)
	var wakes counter
	for want := counter(0); want < 2; want++ {
		if wakes != want {
			t.Errorf("woken %d times, want %d", wakes, want)
		}
		if got, live := resp.Stream.Append(nil, &wakes); len(got) > 0 || !live {
			t.Errorf("Append appends %q, live %v", got, live)
		}
		if want == 1 {
			resp.Stream.Close()
		}
		st.notify()
	}
	if wakes != 1 {
		t.Errorf("woken %d times, once after Close", wakes)
	}
}

// A notifier is a store whose last subscription can be notified by a test.
type notifier struct {
	*memory.Store
	notify func()
}

func (n *notifier) Subscribe(ctx context.Context, key []byte, p wire.Peer, notify func(), dst []wire.Peer) ([]wire.Peer, store.Size, store.Subscription, error) {
	n.notify = notify
	return n.Store.Subscribe(ctx, key, p, notify, dst)
}

// A counter counts wake-ups.
type counter int

func (c *counter) Wake() { *c++ }

// A keeper is a store whose table outlives the tracker.
type keeper struct {
	*memory.Store
	keeps func()
}

func (k keeper) KeepHolds() { k.keeps() }

// NeverBlocks returns false, as that of a store over a network.
func (k keeper) NeverBlocks() bool { return false }

// EndStreams first makes the store keep the peers of the streams, so that no stream leaves because of it.
func TestEndStreamsKeepsHolds(t *testing.T) {
	var stream *tracker.Stream
	kept := false
	tr := &tracker.Tracker{Store: keeper{memory.New(), func() {
		if _, live := stream.Append(nil, nil); !live {
			t.Error("the stream has ended before KeepHolds")
		}
		kept = true
	}}}
	resp, _ := tr.Answer(t.Context(), &tracker.Call{Method: "GET", Target: []byte("/ntrk/k?port=1"),
		Remote: netip.MustParseAddrPort("192.0.2.9:1"), Accept: []byte("text/event-stream")}, nil)
	stream = resp.Stream
	defer stream.Close()
	tr.EndStreams()
	if _, live := stream.Append(nil, nil); live || !kept {
		t.Errorf("live %v, kept %v", live, kept)
	}
}

// EndStreams asks each client to reconnect within 2 seconds for every thousand peers of the track.
func TestEndStreams(t *testing.T) {
	for _, c := range []struct{ before, join, leave int }{{0, 0, 0}, {5000, 0, 0}, {0, 5000, 0}, {5000, 0, 4500}} {
		synctest.Test(t, func(t *testing.T) {
			tr := &tracker.Tracker{}
			peer := func(method string, port int) {
				call := tracker.Call{Method: method, Target: fmt.Appendf(nil, "/announce?info_hash=k&numwant=0&port=%d", 2+port), Remote: netip.MustParseAddrPort("192.0.2.1:1")}
				if method == "DELETE" {
					call.Target = fmt.Appendf(nil, "/ntrk/k?port=%d", 2+port)
				}
				if resp, body := tr.Answer(t.Context(), &call, nil); resp.Status/100 != 2 {
					t.Fatalf("%d %s", resp.Status, body)
				}
			}
			for i := range c.before {
				peer("GET", i)
			}
			var streams []*tracker.Stream
			for range 50 {
				resp, _ := tr.Answer(t.Context(), &tracker.Call{Method: "GET", Target: []byte("/ntrk/k?port=0"),
					Remote: netip.MustParseAddrPort("192.0.2.9:1"), Accept: []byte("text/event-stream")}, nil)
				streams = append(streams, resp.Stream)
			}
			for i := range c.join {
				peer("GET", i)
			}
			for i := range c.leave {
				peer("DELETE", i)
			}
			time.Sleep(time.Second)
			tr.EndStreams()
			longest := 0
			for _, s := range streams {
				out, live := s.Append(nil, nil)
				for live && len(out) > 0 { // there are too many events for one call
					out, live = s.Append(nil, nil)
				}
				_, last, found := strings.Cut(string(out), "retry: ")
				ms, err := strconv.Atoi(strings.TrimSpace(last))
				if live || !found || err != nil {
					t.Fatalf("the end is %.300q, live %v", out, live)
				}
				longest = max(longest, ms)
				s.Close()
			}
			most := 2000 * (1 + (c.before+c.join-c.leave)/1000)
			if longest >= most || longest < most/2 { // the second is true once in 10^15 runs
				t.Errorf("%+v: the longest of %d is %d ms, want %d ms at most", c, len(streams), longest, most)
			}
			if n := tr.Streams(); n != 0 {
				t.Errorf("%d streams are still open", n)
			}
		})
	}
}

// The tracker keeps nothing about streams with peer ids that have ended.
func TestSharedStreamsEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tr := new(tracker.Tracker)
		open := func(i int, id string) *tracker.Stream {
			call := tracker.Call{Method: "GET", Accept: []byte("text/event-stream"), Remote: netip.MustParseAddrPort(fmt.Sprint("192.0.2.1:", 1000+i))}
			call.Target = []byte("/ntrk/k?port=4000")
			if id != "" {
				call.Target = append(call.Target, "&peer_id="+strings.Repeat(id, 20)...)
			}
			resp, _ := tr.Answer(t.Context(), &call, nil)
			if resp.Stream == nil {
				t.Fatalf("no stream, but %+v", resp)
			}
			return resp.Stream
		}
		open(0, "d").Close() // usually there is one stream
		if n := tr.Sharers(); n != 0 {
			t.Errorf("%d entries are left of one stream", n)
		}
		var streams []*tracker.Stream
		for i, id := range []string{"a", "b", "a", "c", ""} {
			streams = append(streams, open(i, id))
		}
		if n := tr.Sharers(); n != 1+4+3 {
			t.Errorf("%d entries about 4 streams", n)
		}
		closeTwice := func(streams []*tracker.Stream) {
			for _, s := range streams {
				s.Close()
				s.Close()
			}
		}
		closeTwice(streams[:2])
		if n := tr.Sharers(); n != 1+2+2 {
			t.Errorf("%d entries about 2 streams", n)
		}
		tr.EndStreams()
		closeTwice(streams)
		if n := tr.Sharers(); n != 0 {
			t.Errorf("%d entries are left", n)
		}
	})
}

// The end of all streams goes in bounded steps, so that other streams can open and close in between. Those
// that close move others, and all of these end, too.
func TestEndStreamsInSteps(t *testing.T) {
	const n = 3000
	tr := &tracker.Tracker{}
	live := make(map[*tracker.Stream]bool)
	for i := range n {
		call := tracker.Call{Method: "GET", Target: fmt.Appendf(nil, "/ntrk/k%d", i), Remote: netip.MustParseAddrPort("127.0.0.1:1"), Accept: []byte("text/event-stream")}
		resp, _ := tr.Answer(t.Context(), &call, nil)
		live[resp.Stream] = true
	}
	defer func() {
		for s := range live {
			s.Close()
		}
	}()
	endedOf := func() (ended int) {
		for s := range live {
			if _, live := s.Append(nil, nil); !live {
				ended++
			}
		}
		return ended
	}
	before := 0
	for end := n; end > 0; {
		end = tr.EndStep(end)
		ended := endedOf()
		if ended-before > 500 {
			t.Fatalf("%d streams end in one step", ended-before)
		}
		closed := 0
		for s := range live { // some have ended, and some not
			if _, live := s.Append(nil, nil); !live {
				ended--
			}
			s.Close()
			delete(live, s)
			if closed++; closed == 100 {
				break
			}
		}
		before = ended
	}
	if ended := endedOf(); ended != len(live) || ended < n/2 {
		t.Errorf("%d of %d streams have ended", ended, len(live))
	}
}
