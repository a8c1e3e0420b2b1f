package server_test

import (
	"bufio"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"ntrack/announce/wire"
	"ntrack/tracker"
	"ntrack/tracker/server"
	"ntrack/tracker/store"
	"ntrack/tracker/store/memory"
)

// openStream opens an event stream and reads its first two events.
func openStream(t *testing.T, c net.Conn, target string) *bufio.Reader {
	t.Helper()
	r := bufio.NewReader(c)
	if _, err := fmt.Fprintf(c, "GET %s HTTP/1.1\r\nHost: t\r\nAccept: text/event-stream\r\n\r\n", target); err != nil {
		t.Fatal(err)
	}
	resp, err := http.ReadResponse(r, nil)
	if err != nil || resp.StatusCode != 200 {
		t.Fatalf("%s: %+v, %v", target, resp, err)
	}
	for _, want := range []string{"you", "peers"} {
		if name, _, err := event(r); err != nil || name != want {
			t.Fatalf("%s: event %q instead of %s, %v", target, name, want, err)
		}
	}
	return r
}

// event reads the next event. data has its lines, each with a semicolon after it.
func event(r *bufio.Reader) (name, data string, err error) {
	var all strings.Builder
	for {
		line, err := r.ReadString('\n')
		if err != nil {
			return "", line, err
		}
		line = strings.TrimSuffix(line, "\n")
		if v, ok := strings.CutPrefix(line, "event: "); ok {
			name = v
		}
		if v, ok := strings.CutPrefix(line, "data: "); ok {
			all.WriteString(v + ";")
		}
		if line == "" && name != "" {
			return name, all.String(), nil
		}
	}
}

func expectEvent(t *testing.T, r *bufio.Reader, want string) {
	t.Helper()
	if name, data, err := event(r); err != nil || name+" "+data != want {
		t.Fatalf("event %s %s, %v; want %s", name, data, err, want)
	}
}

// list returns the peers of a key, one per line.
func list(t *testing.T, tr *tracker.Tracker, key string) string {
	t.Helper()
	call := tracker.Call{Method: "GET", Target: []byte("/ntrk/" + key + "?port=0&format=text"), Remote: netip.MustParseAddrPort("127.0.0.1:1")}
	resp, body := tr.Answer(t.Context(), &call, nil)
	if resp.Status != 200 {
		t.Fatalf("%d %s", resp.Status, body)
	}
	return string(body)
}

func join(t *testing.T, tr *tracker.Tracker, key string, port int) {
	t.Helper()
	call := tracker.Call{Method: "GET", Target: fmt.Appendf(nil, "/ntrk/%s?port=%d", key, port), Remote: netip.MustParseAddrPort("192.0.2.7:1")}
	if resp, body := tr.Answer(t.Context(), &call, nil); resp.Status != 200 {
		t.Fatalf("%d %s", resp.Status, body)
	}
}

// Shutdown ends streams at once. It asks each client to reconnect after a random time of up to two
// seconds for every thousand peers.
func TestStreamShutdown(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		tr := &tracker.Tracker{}
		s := &server.Server{Tracker: tr}
		for i := range 2500 {
			join(t, tr, "k", 1+i)
		}
		const n = 200
		var streams []*bufio.Reader
		for range n {
			streams = append(streams, openStream(t, pipe(s), "/ntrk/k?port=0"))
		}
		began := time.Now()
		done := make(chan error)
		go func() { done <- shutdown(s) }()
		sum, most := 0, 0
		for _, r := range streams {
			rest, err := io.ReadAll(r)
			var ms int
			if _, scanned := fmt.Sscanf(string(rest), "retry: %d\n\n", &ms); err != nil || scanned != nil || strings.Count(string(rest), "\n") != 2 || ms < 0 || ms >= 6000 {
				t.Fatalf("the end of a stream: %q, %v", rest, err)
			}
			sum, most = sum+ms, max(most, ms)
		}
		// The mean of 200 random numbers from 0 to 6000 is 3000 with a deviation of 122.
		if mean := sum / n; mean < 2200 || mean > 3800 || most < 5000 {
			t.Errorf("asked to reconnect after %d ms on average, %d at most", mean, most)
		}
		if err := await(t, "Shutdown", done); err != nil || time.Since(began) > 0 {
			t.Errorf("shutdown: %v after %v", err, time.Since(began))
		}
	})
}

// A client that does not read loses its stream, and does not delay other clients.
func TestStreamSlow(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		tr := &tracker.Tracker{}
		s := &server.Server{Tracker: tr}
		defer shutdown(s)
		slow, good := pipe(s), pipe(s)
		defer slow.Close()
		defer good.Close()
		openStream(t, slow, "/ntrk/k?port=4000")
		r := openStream(t, good, "/ntrk/k?port=0")
		began := time.Now()
		for i := range 9 {
			join(t, tr, "k", 5000+i)
			at := time.Now()
			expectEvent(t, r, fmt.Sprintf("join 192.0.2.7:%d;", 5000+i))
			if d := time.Since(at); d > 50*time.Millisecond {
				t.Errorf("the event came after %v", d)
			}
			time.Sleep(time.Second)
		}
		if l := list(t, tr, "k"); !strings.Contains(l, "192.0.2.1:4000\n") {
			t.Errorf("its stream ended too soon: %s", l)
		}
		expectEvent(t, r, "leave 192.0.2.1:4000;")
		if d := time.Since(began).Round(time.Second); d != 10*time.Second {
			t.Errorf("its stream ended after %v, want 10s", d)
		}
	})
}

// The server ignores bytes that a client sends after the request. Too many of them end the stream.
func TestStreamIgnoresInput(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		tr := &tracker.Tracker{}
		s := &server.Server{Tracker: tr}
		defer shutdown(s)
		c := pipe(s)
		r := openStream(t, c, "/ntrk/k?port=4000")
		request := "GET /ntrk/k?port=4001 HTTP/1.1\r\nHost: t\r\n\r\n"
		if _, err := io.WriteString(c, request); err != nil {
			t.Fatal(err)
		}
		join(t, tr, "k", 5000)
		expectEvent(t, r, "join 192.0.2.7:5000;")
		go io.Copy(io.Discard, r)
		time.Sleep(time.Hour)
		synctest.Wait()
		if l := list(t, tr, "k"); l != "192.0.2.1:4000\n" {
			t.Errorf("listed: %q", l)
		}
		sent := 0
		for ; sent < 1<<20; sent += len(request) {
			if _, err := io.WriteString(c, request); err != nil {
				break
			}
		}
		if sent > 80<<10 {
			t.Errorf("%d bytes were read", sent)
		}
		synctest.Wait()
		if l := list(t, tr, "k"); l != "" {
			t.Errorf("listed: %q", l)
		}
	})
}

// A stream ends if the client is gone before its first events are written, or if the store panics.
// Then its peer is no longer listed.
func TestStreamBroken(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		var logged atomic.Int32
		store := &brokenStore{Store: memory.New()}
		tr := &tracker.Tracker{Store: store}
		s := &server.Server{Tracker: tr, Log: server.LogTo(func(string) { logged.Add(1) })}
		defer shutdown(s)
		gone := pipe(s)
		_, _ = io.WriteString(gone, "GET /ntrk/k?port=4000 HTTP/1.0\r\nAccept: text/event-stream\r\n\r\n")
		gone.Close()
		synctest.Wait()
		if l := list(t, tr, "k"); l != "" {
			t.Errorf("listed: %q", l)
		}
		c := pipe(s)
		r := openStream(t, c, "/ntrk/k?port=4000")
		store.broken.Store(true)
		join(t, tr, "k", 5000)
		if b, err := io.ReadAll(r); len(b) > 0 {
			t.Errorf("%q, %v", b, err)
		}
		synctest.Wait()
		if l := list(t, tr, "k"); l != "192.0.2.7:5000\n" || logged.Load() != 1 {
			t.Errorf("listed: %q; %d panics were logged", l, logged.Load())
		}
	})
}

// A brokenStore panics while broken is set and a stream of the key k asks for changes.
type brokenStore struct {
	*memory.Store
	broken atomic.Bool
}

func (s *brokenStore) Subscribe(ctx context.Context, key []byte, p wire.Peer, wake func(), dst []wire.Peer) ([]wire.Peer, store.Size, store.Subscription, error) {
	dst, size, sub, err := s.Store.Subscribe(ctx, key, p, wake, dst)
	return dst, size, &brokenSubscription{sub, s, string(key)}, err
}

type brokenSubscription struct {
	store.Subscription
	s   *brokenStore
	key string
}

func (s *brokenSubscription) Next() (*store.Batch, bool) {
	if s.s.broken.Load() && s.key == "k" {
		panic("a store with a bug")
	}
	return s.Subscription.Next()
}

// A thousand streams open and close at random, among announces and leaves. At the end a peer is
// listed if it has announced since it last left. Its streams make no difference.
func TestStreamChurn(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		tr := &tracker.Tracker{}
		s := &server.Server{Tracker: tr, Log: server.LogTo(func(line string) { t.Error(line) })}
		watcher := pipe(s)
		r := openStream(t, watcher, "/ntrk/k?port=0")
		seen := map[string]bool{} // the peers that are listed according to the events
		watched := make(chan struct{})
		go func() {
			defer close(watched)
			for {
				name, data, err := event(r)
				if err != nil {
					return
				}
				if there := name == "join"; there == seen[data] {
					t.Errorf("%s of %s", name, data)
				}
				if seen[data] = true; name == "leave" {
					delete(seen, data)
				}
			}
		}()
		var stays [50]bool // for each peer, whether it is listed in the end
		var wg sync.WaitGroup
		for i := range stays {
			wg.Go(func() {
				rnd := rand.New(rand.NewPCG(uint64(i), 1))
				target := fmt.Sprintf("/ntrk/k?port=%d", 1+i)
				var open []net.Conn
				ask := func(method string) {
					c := pipe(s)
					defer c.Close()
					fmt.Fprintf(c, "%s %s HTTP/1.0\r\n\r\n", method, target)
					_, _ = io.Copy(io.Discard, c)
				}
				for range 20 {
					switch rnd.IntN(6) {
					case 0:
						ask("DELETE")
						stays[i] = false
					case 1:
						ask("GET")
						stays[i] = true
					case 2:
						for _, c := range open {
							c.Close()
						}
						open = nil
					}
					c := pipe(s)
					r := openStream(t, c, target)
					go io.Copy(io.Discard, r)
					open = append(open, c)
					time.Sleep(time.Duration(rnd.IntN(100)) * time.Millisecond)
				}
				for _, c := range open {
					c.Close()
				}
			})
		}
		wg.Wait()
		time.Sleep(time.Second)
		synctest.Wait()
		n := 0
		for i, stay := range stays {
			name := fmt.Sprintf("192.0.2.1:%d", 1+i)
			if stay {
				n++
			}
			if seen[name+";"] != stay {
				t.Errorf("%s: seen %v, want %v", name, !stay, stay)
			}
			if strings.Contains(list(t, tr, "k"), name+"\n") != stay {
				t.Errorf("%s: listed %v, want %v", name, !stay, stay)
			}
		}
		if n == 0 || n == len(stays) || len(seen) != n {
			t.Errorf("%d of %d peers stay, and %d are seen", n, len(stays), len(seen))
		}
		watcher.Close()
		await(t, "the watcher", watched)
		if err := shutdown(s); err != nil {
			t.Error(err)
		}
	})
}

// eventually waits until ok returns true.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("not yet: " + what)
		}
	}
}

// A client whose process is killed leaves, because its system closes the connection.
func TestStreamKilled(t *testing.T) {
	if addr := os.Getenv("NTRACK_TEST_STREAM"); addr != "" {
		openStream(t, dial(t, addr), "/ntrk/k?port=4000")
		time.Sleep(time.Hour)
	}
	tr := &tracker.Tracker{}
	addr := serve(t, &server.Server{Tracker: tr})
	r := openStream(t, dial(t, addr), "/ntrk/k?port=0")
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(self, "-test.run=^TestStreamKilled$")
	cmd.Env = append(os.Environ(), "NTRACK_TEST_STREAM="+addr)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer cmd.Wait()
	expectEvent(t, r, "join 127.0.0.1:4000;")
	began := time.Now()
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	expectEvent(t, r, "leave 127.0.0.1:4000;")
	if d := time.Since(began); d > 10*time.Second { // without the close, a heartbeat would fail after 15 s
		t.Errorf("the peer left after %v", d)
	}
}

// Streams work over TLS, and a reset of the connection ends its stream.
func TestStreamTLS(t *testing.T) {
	std := httptest.NewTLSServer(nil) // for its certificate
	defer std.Close()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	tr := &tracker.Tracker{}
	s := &server.Server{Tracker: tr, Log: server.LogTo(func(line string) { t.Error(line) })}
	ended := make(chan error)
	go func() { ended <- s.ServeTLS(l, &tls.Config{Certificates: std.TLS.Certificates}) }()
	secure := std.Client().Transport.(*http.Transport).TLSClientConfig
	a, err := dialTLS(l.Addr().String(), secure)
	if err != nil {
		t.Fatal(err)
	}
	b, err := dialTLS(l.Addr().String(), secure)
	if err != nil {
		t.Fatal(err)
	}
	r := openStream(t, a, "/ntrk/k?port=4000")
	openStream(t, b, "/ntrk/k?port=4001")
	expectEvent(t, r, "join 127.0.0.1:4001;")
	_ = b.NetConn().(*net.TCPConn).SetLinger(0)
	b.NetConn().Close()
	expectEvent(t, r, "leave 127.0.0.1:4001;")
	a.Close()
	eventually(t, "all have left", func() bool { return list(t, tr, "k") == "" })
	if err := shutdown(s); err != nil || await(t, "Serve", ended) != server.ErrClosed {
		t.Error(err)
	}
}

// If a client reads nothing for ten seconds, but its system sends acknowledgements, it loses its
// stream. It keeps its stream if it reads slowly, or if its system sends no acknowledgements,
// because then packets may be lost.
func TestStallDetector(t *testing.T) {
	const second = time.Second
	for _, tt := range []struct {
		name  string
		state func(at time.Duration) (pending bool, acked uint64, sinceHeard time.Duration)
		cut   time.Duration // 0 for never
	}{
		{"nothing", func(time.Duration) (bool, uint64, time.Duration) { return true, 7, second }, 10 * second},
		{"something", func(at time.Duration) (bool, uint64, time.Duration) { return true, uint64(min(at, 4*second)), second }, 15 * second},
		{"all, slowly", func(at time.Duration) (bool, uint64, time.Duration) {
			return at < 300*second, uint64(at / (8 * second)), 3 * second
		}, 0},
		{"all at once", func(at time.Duration) (bool, uint64, time.Duration) { return at < second, uint64(at), second }, 0},
		{"nothing, and packets are lost", func(at time.Duration) (bool, uint64, time.Duration) { return true, 7, at + second }, 0},
		{"nothing, and packets are lost for 15 seconds", func(at time.Duration) (bool, uint64, time.Duration) {
			if at < 15*second {
				return true, 7, at
			}
			return false, 8, 0
		}, 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			inBubble(t, func(t *testing.T) {
				began, cut, checks := time.Now(), time.Duration(0), 0
				start, stop := server.DetectStall(10*second, func() (bool, uint64, time.Duration) {
					checks++
					return tt.state(time.Since(began))
				}, func() { cut = time.Since(began) })
				start()
				time.Sleep(600 * second)
				stop()
				if (cut > 0) != (tt.cut > 0) || cut < tt.cut || cut > tt.cut+5*second/2 {
					t.Errorf("cut after %v", cut)
				}
				if pending, _, _ := tt.state(600 * second); checks > 300 || !pending && checks > 130 || tt.name == "all at once" && checks > 2 {
					t.Errorf("checked %d times", checks)
				}
			})
		})
	}
}
