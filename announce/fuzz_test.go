package announce_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"sync"
	"testing"
	"time"
	"unicode"

	"ntrack/announce"
	"ntrack/announce/wire"
)

// The beginnings of answers, after which the fuzzed bytes come.
var answerHeads = []string{
	"",
	"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n\r\n",
	"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 1\r\n\r\n",
	"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
	"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n",
	"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n",
}

// FuzzClient: whatever a server sends over a real connection, and wherever the bytes are split, every
// call ends soon, needs little memory, and returns only what its types promise.
func FuzzClient(f *testing.F) {
	hostile := newHostileServer(f)
	for i, in := range hostileAnswers(f) {
		for head := range answerHeads {
			f.Add([]byte(in), uint8(i+head), uint8(head), uint16(3*i))
		}
	}
	for _, in := range []string{"event: peers\ndata: 0.0.0.0:1\ndata: 192.0.2.1:0\ndata: [ff02::1]:2\n\n", "event: peers\ndata:\n\nevent: join\ndata: 0.0.0.0:1\n\n", "event: you\ndata: [::]:7\n\nevent: peers\ndata:\n\n"} {
		f.Add([]byte(in), uint8(5), uint8(4), uint16(100))
	}
	for _, in := range []string{"0.0.0.0:1\n192.0.2.1:0\n", `{"interval":60,"you":"0.0.0.0:7","peers":["0.0.0.0:1","[ff02::1]:2","192.0.2.1:0"]}`, "d8:intervali60e5:peers12:\x00\x00\x00\x00\x00\x05\xc0\x00\x02\x01\x00\x00e"} {
		f.Add([]byte(in), uint8(0), uint8(1), uint16(100))
		f.Add([]byte(in), uint8(1), uint8(1), uint16(10))
	}
	f.Fuzz(func(t *testing.T, in []byte, call, head uint8, cut uint16) {
		if len(in) > 1<<16 {
			return
		}
		answer := append([]byte(answerHeads[int(head)%len(answerHeads)]), in...)
		hostile.answer(answer, int(cut)%(len(answer)+1))
		native, classic := named(t, "http://192.0.2.1"), named(t, "http://192.0.2.1/announce")
		c := &announce.Client{Timeout: 4 * time.Second, Dial: hostile.dial}
		defer c.Close()
		ctx, cancel := context.WithTimeout(t.Context(), 4*time.Second)
		defer cancel()
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		r := announce.Request{Key: wire.KeyOf([]byte("k")), Port: 7}
		var reply *announce.Reply
		var tracks []announce.Track
		var err error
		switch call % 6 {
		case 0:
			reply, err = c.Announce(ctx, native, r)
		case 1:
			reply, err = c.Announce(ctx, classic, r)
		case 2:
			reply, err = c.List(ctx, native, r)
		case 3:
			tracks, err = c.Index(ctx, native)
		case 4:
			tracks, err = c.Index(ctx, classic)
		default:
			watchCtx, end := context.WithCancel(ctx)
			defer end()
			go func() { // after the client has read the answer, it closes the connection
				select {
				case <-hostile.closed:
				case <-ctx.Done():
				}
				end()
			}()
			for ev, watchErr := range c.Watch(watchCtx, []announce.Tracker{native}, announce.Request{Key: r.Key}) {
				err = errors.Join(err, watchErr)
				checkPeers(t, append(ev.Peers, ev.You...))
				if ev.Peer.IsValid() {
					checkPeers(t, []netip.AddrPort{ev.Peer})
				}
				if ev.TTL < 0 {
					t.Errorf("ttl %v", ev.TTL)
				}
			}
		}
		if ctx.Err() != nil {
			t.Errorf("%q: the call did not end: %v", answer, err)
		}
		if n := hostile.connections(); n > 20 {
			t.Errorf("%q: %d connections", answer, n)
		}
		runtime.ReadMemStats(&after)
		if n := after.TotalAlloc - before.TotalAlloc; n > 2<<20+200*uint64(len(answer)) {
			t.Errorf("%q of %d bytes: %d bytes of memory", answer[:min(len(answer), 200)], len(answer), n)
		}
		if refusal, ok := errors.AsType[*announce.RefusalError](err); ok {
			if refusal.Reason != wire.Clean(refusal.Reason) || refusal.Reason == "" || refusal.Retry < 0 || refusal.Retry > 24*time.Hour {
				t.Errorf("%q: refused with %+v", answer, refusal)
			}
		}
		if err == nil && reply != nil {
			checkPeers(t, append(reply.Peers, reply.Endpoints...))
			if reply.Warning != wire.Clean(reply.Warning) || reply.Interval < time.Second || reply.Interval > time.Hour || reply.TTL < 0 || reply.Count < -1 {
				t.Errorf("%q: %+v", answer, reply)
			}
			for e, label := range reply.Labels {
				if checkPeers(t, []netip.AddrPort{e}); label == "" || len(label) > 20 || label != wire.Clean(label) {
					t.Errorf("%q: label %q", answer, label)
				}
			}
		}
		for _, track := range tracks {
			if track.Key.Check() != nil || track.Count < 0 || bytes.ContainsFunc([]byte(track.Key.String()), unicode.IsControl) {
				t.Errorf("%q: %+v", answer, track)
			}
		}
	})
}

// checkPeers checks that each peer can be dialled.
func checkPeers(t *testing.T, peers []netip.AddrPort) {
	t.Helper()
	for _, p := range peers {
		if p.Port() == 0 || !p.IsValid() || p.Addr().IsUnspecified() || p.Addr().IsMulticast() || p != wire.Canonical(p) {
			t.Errorf("peer %v", p)
		}
	}
}

// hostileAnswers returns answers of trackers: those of the vectors, and some others.
func hostileAnswers(f *testing.F) []string {
	answers := []string{
		"", "HTTP/1.1 200 OK\r\n", "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 204 No Content\r\n\r\n",
		"HTTP/1.1 302 Found\r\nLocation: http://192.0.2.2/x\r\nContent-Length: 0\r\n\r\n",
		"HTTP/1.1 302 Found\r\nLocation: //[fe80::1%25eth0]:99999/\r\n\r\n",
		"HTTP/1.1 200 OK\r\nContent-Length: 99999999999\r\n\r\n{",
		"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\n\r\n\x1f\x8b\x08\x00",
		"HTTP/1.1 429 \x1b[2J\r\nContent-Type: text/plain\r\nRetry-After: Fri, 31 Dec 9999 23:59:59 GMT\r\n\r\n\x1b]0;x\x07",
		"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\nx",
		"event: you\nid: e\nretry: 99999999999999999999\ndata: 192.0.2.1:1\ndata: 150\n\nevent: peers\ndata: 192.0.2.2:2\n\nevent: join\ndata: [2001:db8::1]:3\n\nevent: leave\ndata: 192.0.2.2:2\n\n",
		"event: you\r\ndata: \r\n\r\nevent: peers\r\ndata:\r\n\r\n:\n\nevent: shared\ndata: 192.0.2.1:1\n\nevent: unshared\ndata: 192.0.2.1:1\n\n",
		"5\r\nhello\r\n0\r\nX: y\r\n\r\n", "ffffffffffffffff\r\n",
		"d5:peersld2:ip7:1.2.3.47:peer id20:aaaaaaaaaaaaaaaaaaaa4:porti80eeee",
		"d14:failure reason4:n\x1bo!8:retry ini-1ee",
		"d5:filesd20:aaaaaaaaaaaaaaaaaaaad8:completei1e10:incompletei1eeee",
	}
	files, err := filepath.Glob("../testdata/vectors/client/*.json")
	if err != nil || len(files) == 0 {
		f.Fatalf("no vectors: %v", err)
	}
	for _, file := range files {
		data, err := os.ReadFile(file)
		if err != nil {
			f.Fatal(err)
		}
		var v struct {
			Exchanges []struct{ Reply struct{ Body string } }
		}
		if err := json.Unmarshal(data, &v); err != nil {
			continue // scenarios have another form
		}
		for _, x := range v.Exchanges {
			answers = append(answers, string(latin1(x.Reply.Body)))
		}
	}
	slices.Sort(answers)
	return slices.Compact(answers)
}

// A hostileServer sends the same bytes on every connection, and then closes it.
type hostileServer struct {
	addr   string
	closed chan struct{} // has a value when the client has closed a connection

	mu    sync.Mutex
	parts [2][]byte
	conns int
}

func newHostileServer(f *testing.F) *hostileServer {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		f.Fatal(err)
	}
	s := &hostileServer{addr: l.Addr().String(), closed: make(chan struct{}, 1)}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			s.serve(c)
		}
	}()
	f.Cleanup(func() { l.Close(); <-done })
	return s
}

// serve sends the answer as soon as the request has come.
func (s *hostileServer) serve(c net.Conn) {
	defer c.Close()
	s.mu.Lock()
	s.conns++
	parts := s.parts
	s.mu.Unlock()
	_ = c.SetDeadline(time.Now().Add(5 * time.Second))
	r := bufio.NewReader(c)
	if _, err := http.ReadRequest(r); err != nil {
		return
	}
	for _, part := range parts {
		_, _ = c.Write(part)
	}
	_ = c.(*net.TCPConn).CloseWrite()
	_, _ = io.Copy(io.Discard, r)
	select {
	case s.closed <- struct{}{}:
	default:
	}
}

// answer sets the bytes that the server sends from now on, in two parts.
func (s *hostileServer) answer(b []byte, cut int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.parts, s.conns = [2][]byte{b[:cut], b[cut:]}, 0
	select {
	case <-s.closed:
	default:
	}
}

func (s *hostileServer) connections() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.conns
}

// dial connects to the server, whatever the address is.
func (s *hostileServer) dial(ctx context.Context, _, _ string) (net.Conn, error) {
	return new(net.Dialer).DialContext(ctx, "tcp", s.addr)
}
