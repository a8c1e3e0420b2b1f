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
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"ntrack/announce/wire"
	"ntrack/tracker"
	"ntrack/tracker/server/servertest"
	"ntrack/tracker/store/memory"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// A Handler passes the published conformance scenarios.
func TestVectors(t *testing.T) {
	servertest.Vectors(t, "../testdata/vectors/tracker", func(l net.Listener, tr *tracker.Tracker) {
		server := &http.Server{
			Handler: tracker.Handler(tr),
			// Otherwise net/http itself answers OPTIONS *, without the CORS headers.
			DisableGeneralOptionsHandler: true,
		}
		server.Serve(l)
	})
}

// ask is a complete client over a socket: it sends a request line and one header field, and reads
// until the end of the connection.
func ask(addr, method, target string) (status, body string, err error) {
	c, err := net.Dial("tcp", addr)
	if err != nil {
		return "", "", err
	}
	defer c.Close()
	if _, err := fmt.Fprintf(c, "%s %s HTTP/1.0\r\nHost: %s\r\n\r\n", method, target, addr); err != nil {
		return "", "", err
	}
	reply, err := io.ReadAll(c)
	head, body, _ := strings.Cut(string(reply), "\r\n\r\n")
	status, _, _ = strings.Cut(head, "\r\n")
	return status, body, err
}

func TestRawSocketClient(t *testing.T) {
	srv := httptest.NewServer(tracker.Handler(&tracker.Tracker{}))
	defer srv.Close()
	at := srv.Listener.Addr().String()
	for _, step := range []struct{ method, target, status, body string }{
		{"GET", "/ntrk/lobby?port=4000&format=text", "200 OK", ""},
		{"GET", "/ntrk/lobby?port=4001&format=text", "200 OK", "127.0.0.1:4000\n"},
		{"GET", "/ntrk/lobby?port=0&format=text&numwant=0", "200 OK", ""},
		{"DELETE", "/ntrk/lobby?port=4001", "204 No Content", ""},
		{"GET", "/ntrk/lobby?port=0&format=text", "200 OK", "127.0.0.1:4000\n"},
		{"GET", "/ntrk/lobby?port=x", "400 Bad Request", "port \"x\": must be 0 to 65535\n"},
	} {
		status, body, err := ask(at, step.method, step.target)
		if err != nil || !strings.HasSuffix(status, step.status) || body != step.body {
			t.Errorf("%s %s: %s, %q, %v; want %s, %q", step.method, step.target, status, body, err, step.status, step.body)
		}
	}
}

// Behind a mux and StripPrefix, the handler still reads the target as the client sent it.
func TestHandlerMounted(t *testing.T) {
	h := tracker.Handler(&tracker.Tracker{})
	mux := http.NewServeMux()
	mux.Handle("/ntrk/", http.StripPrefix("/ntrk", h))
	mux.Handle("/announce", h)
	srv := httptest.NewServer(mux)
	defer srv.Close()
	if status, _, err := ask(srv.Listener.Addr().String(), "GET", "/ntrk/a%2Fb?port=4000"); err != nil || !strings.HasSuffix(status, "200 OK") {
		t.Fatalf("%s, %v", status, err)
	}
	if _, body, err := ask(srv.Listener.Addr().String(), "GET", "/announce?info_hash=a/b&port=1&compact=1"); err != nil || !strings.Contains(body, "5:peers6:\x7f\x00\x00\x01\x0f\xa0") {
		t.Errorf("%q, %v", body, err)
	}
}

// A connection over a Unix socket comes from a proxy, which must send X-Forwarded-For.
func TestHandlerUnix(t *testing.T) {
	l, err := net.Listen("unix", filepath.Join(t.TempDir(), "s"))
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{Handler: tracker.Handler(&tracker.Tracker{})}
	go server.Serve(l)
	defer server.Close()
	for _, step := range []struct{ header, status, body string }{
		{"X-Forwarded-For: 203.0.113.9\r\n", "200 OK", ""},
		{"X-Forwarded-For: 203.0.113.10\r\n", "200 OK", "203.0.113.9:4000\n"},
		{"", "400 Bad Request", "X-Forwarded-For is missing: a proxy at a Unix socket has to name the client\n"},
	} {
		c, err := net.Dial("unix", l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		_ = c.SetDeadline(time.Now().Add(10 * time.Second))
		fmt.Fprintf(c, "GET /ntrk/k?port=4000&format=text HTTP/1.0\r\n%s\r\n", step.header)
		reply, err := io.ReadAll(c)
		head, body, _ := strings.Cut(string(reply), "\r\n\r\n")
		if status, _, _ := strings.Cut(head, "\r\n"); err != nil || !strings.HasSuffix(status, step.status) || body != step.body {
			t.Errorf("%q: %s, %q, %v; want %s, %q", step.header, status, body, err, step.status, step.body)
		}
		c.Close()
	}
}

// A handler around this one may change RemoteAddr. If RemoteAddr has no port, the port is not
// known. Whatever RemoteAddr is, a client that connected over TCP is not a proxy.
func TestHandlerRemote(t *testing.T) {
	h := tracker.Handler(&tracker.Tracker{})
	tcp, unix := &net.TCPAddr{IP: net.IPv4(192, 0, 2, 80), Port: 80}, &net.UnixAddr{Name: "/s", Net: "unix"}
	for _, c := range []struct {
		local          net.Addr
		remote, target string
		status         int
		body           string
	}{
		{tcp, "192.0.2.1:1001", "/ntrk/k?format=json", 200, `"you":"192.0.2.1:1001",`},
		{tcp, "192.0.2.1", "/ntrk/k?format=json&port=4000", 200, `"you":"192.0.2.1:4000",`},
		{tcp, "2001:db8::1", "/ntrk/k?format=json&port=4000", 200, `"you":"[2001:db8::1]:4000",`},
		{tcp, "192.0.2.1", "/ntrk/k", 400, "port is missing"},
		{tcp, "192.0.2.1:0", "/ntrk/k", 400, "port is missing"},
		{tcp, "", "/ntrk/k?port=4000", 500, "an error of its own"},
		{tcp, "@", "/ntrk/k?port=4000", 500, "an error of its own"},
		{tcp, "pipe", "/ntrk/k?port=4000", 500, "an error of its own"},
		{nil, "@", "/ntrk/k?port=4000", 500, "an error of its own"},
		{unix, "@", "/ntrk/k?format=json&port=4000", 200, `"you":"203.0.113.9:4000",`},
		{unix, "", "/ntrk/k?format=json&port=4000", 200, `"you":"203.0.113.9:4000",`},
		{unix, "192.0.2.1", "/ntrk/k?format=json&port=4000", 200, `"you":"192.0.2.1:4000",`},
	} {
		r := httptest.NewRequest("GET", c.target, nil)
		if c.local != nil {
			r = r.WithContext(context.WithValue(t.Context(), http.LocalAddrContextKey, c.local))
		}
		r.RemoteAddr = c.remote
		r.Header.Set("X-Forwarded-For", "203.0.113.9")
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		if w.Code != c.status || !strings.Contains(w.Body.String(), c.body) {
			t.Errorf("%s from %q: %d, %s; want %d, %s", c.target, c.remote, w.Code, w.Body, c.status, c.body)
		}
	}
}

// A body is read up to a limit and ignored. A request that is cut short gets no reply.
func TestHandlerBody(t *testing.T) {
	tr := &tracker.Tracker{}
	srv := httptest.NewServer(tracker.Handler(tr))
	t.Cleanup(srv.Close)
	open := func(port, length int) *net.TCPConn {
		c, err := net.Dial("tcp", srv.Listener.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		_ = c.SetDeadline(time.Now().Add(10 * time.Second))
		fmt.Fprintf(c, "POST /ntrk/k?port=%d&format=text HTTP/1.1\r\nHost: t\r\nContent-Length: %d\r\n\r\n", port, length)
		return c.(*net.TCPConn)
	}
	c := open(4000, 1<<30)
	if _, err := c.Write(make([]byte, 64<<10)); err != nil { // the handler reads no more than this
		t.Fatal(err)
	}
	if reply, err := bufio.NewReader(c).ReadString('\n'); err != nil || reply != "HTTP/1.1 200 OK\r\n" {
		t.Errorf("a large body: %q, %v", reply, err)
	}
	c = open(4001, 100)
	_, _ = io.WriteString(c, "half of")
	_ = c.CloseWrite()
	if reply, err := io.ReadAll(c); err != nil || len(reply) > 0 {
		t.Errorf("a body cut short: %q, %v", reply, err)
	}
	if listed := list(t, tr); listed != "127.0.0.1:4000\n" {
		t.Errorf("listed: %q", listed)
	}
}

// A freeReporter is a ResponseWriter. When the memory of a slice that was written is freed, it
// sends the length of the slice.
type freeReporter struct {
	http.ResponseWriter
	freed chan int
}

func (r freeReporter) Write(b []byte) (int, error) {
	runtime.AddCleanup(&b[0], func(n int) { r.freed <- n }, len(b))
	return r.ResponseWriter.Write(b)
}

// The handler does not keep the memory of a large reply.
func TestHandlerFreesLargeReplies(t *testing.T) {
	tr := &tracker.Tracker{Index: true}
	for i := range 5000 {
		call := tracker.Call{Method: "GET", Target: fmt.Appendf(nil, "/ntrk/%0100d?port=1", i), Remote: netip.MustParseAddrPort("192.0.2.1:1")}
		tr.Answer(t.Context(), &call, nil)
	}
	h := tracker.Handler(tr)
	w := freeReporter{httptest.NewRecorder(), make(chan int, 1)}
	h.ServeHTTP(w, httptest.NewRequest("GET", "/ntrk/?format=text", nil))
	runtime.GC() // not twice: a second run would free the memory even if a pool had kept it
	select {
	case n := <-w.freed:
		if n < 5000*100 {
			t.Errorf("the index has %d bytes", n)
		}
	case <-time.After(10 * time.Second):
		t.Error("the memory of a large reply is kept")
	}
	runtime.KeepAlive(h)
}

// A tracker does not change the slice of Proxies, so two trackers may share it.
func TestProxiesAreNotChanged(t *testing.T) {
	original := func() []netip.Prefix {
		return []netip.Prefix{netip.MustParsePrefix("::ffff:10.0.0.0/104"), netip.MustParsePrefix("::/0"), netip.MustParsePrefix("192.0.2.0/24")}
	}
	proxies := original()
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			tr := &tracker.Tracker{Proxies: proxies}
			call := tracker.Call{Method: "GET", Target: []byte("/ntrk/k?port=4000&format=json"), Remote: netip.MustParseAddrPort("10.1.2.3:1"), ForwardedFor: []byte("198.51.100.1")}
			if _, body := tr.Answer(t.Context(), &call, nil); !strings.Contains(string(body), `"you":"198.51.100.1:4000"`) {
				t.Errorf("a proxy is not trusted: %s", body)
			}
		})
	}
	wg.Wait()
	if !slices.Equal(proxies, original()) {
		t.Errorf("the caller's proxies are now %v", proxies)
	}
}

// An interval below 1 second counts as 1 second, and one above 1 hour as 1 hour. A peer is listed
// until its ttl is over.
func TestIntervalBounds(t *testing.T) {
	for _, c := range []struct{ interval, want, ttl time.Duration }{
		{1, time.Second, 3 * time.Second},
		{time.Second, time.Second, 3 * time.Second},
		{time.Minute, time.Minute, 150 * time.Second},
		{time.Hour, time.Hour, 9000 * time.Second},
		{100 * time.Hour, time.Hour, 9000 * time.Second},
	} {
		synctest.Test(t, func(t *testing.T) {
			tr := &tracker.Tracker{Interval: c.interval}
			call := tracker.Call{Method: "GET", Target: []byte("/ntrk/k?port=4000&format=json"), Remote: netip.MustParseAddrPort("127.0.0.1:1")}
			resp, body := tr.Answer(t.Context(), &call, nil)
			if want := fmt.Sprintf(`"interval":%d,`, c.want/time.Second); !strings.Contains(string(body), want) || resp.TTL != c.ttl {
				t.Errorf("%v: ttl %v, %s; want %v, %s", c.interval, resp.TTL, body, c.ttl, want)
			}
			time.Sleep(resp.TTL - time.Millisecond)
			if list(t, tr) == "" {
				t.Errorf("%v: lapsed before its ttl of %v", c.interval, resp.TTL)
			}
			time.Sleep(time.Millisecond + time.Second)
			if list(t, tr) != "" {
				t.Errorf("%v: listed after its ttl of %v", c.interval, resp.TTL)
			}
			call.Target = []byte("/ntrk/" + strings.Repeat("k", 256) + "?format=bencode")
			if _, body := tr.Answer(t.Context(), &call, nil); !strings.Contains(string(body), fmt.Sprintf("8:intervali%de", c.want/time.Second)) {
				t.Errorf("%v: a refusal is %s", c.interval, body)
			}
		})
	}
}

// A refusal has no Expires.
func TestRefusedHasNoExpires(t *testing.T) {
	store := memory.New()
	store.Limits.MaxPerAddr = 1
	tr := &tracker.Tracker{Store: store}
	for i, target := range []string{"/ntrk/k?port=1", "/ntrk/k?port=2", "/announce?info_hash=k&port=3"} {
		call := tracker.Call{Method: "GET", Target: []byte(target), Remote: netip.MustParseAddrPort("192.0.2.1:1")}
		resp, body := tr.Answer(t.Context(), &call, nil)
		if (resp.TTL == 0) != (i > 0) {
			t.Errorf("%s: %d, ttl %v, %q", target, resp.Status, resp.TTL, body)
		}
		if classic := i == 2; i > 0 && (classic != (resp.Status == 200) || classic != (resp.Retry == 0)) {
			t.Errorf("%s: %d, retry after %v", target, resp.Status, resp.Retry)
		}
	}
}

func BenchmarkAnswer(b *testing.B) {
	tr := &tracker.Tracker{}
	call := tracker.Call{Method: "GET", Remote: netip.MustParseAddrPort("192.0.2.1:1")}
	target, dst := make([]byte, 0, 512), make([]byte, 0, 8192)
	b.ReportAllocs()
	i := 0
	for b.Loop() {
		call.Target = fmt.Appendf(target, "/announce?info_hash=%%00%%ff%%80%%25%%26&port=%d&compact=1", 1000+i%80)
		tr.Answer(b.Context(), &call, dst)
		i++
	}
}

func BenchmarkReply(b *testing.B) {
	r := wire.Reply{Key: wire.KeyOf([]byte("lobby")), You: netip.MustParseAddrPort("192.0.2.1:1"), Count: 50}
	var peers []wire.Peer
	for i := range 50 {
		peers = append(peers, wire.Peer{Endpoint: netip.AddrPortFrom(netip.MustParseAddr("192.0.2.2"), uint16(1000+i))})
	}
	dst := make([]byte, 0, 8192)
	for name, req := range map[string]wire.Request{
		"compact":    {Format: wire.FormatBencode, Compact: true},
		"dictionary": {Format: wire.FormatBencode},
		"json":       {Format: wire.FormatJSON},
		"text":       {Format: wire.FormatText},
	} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				req.AppendReply(dst, req.Format, &r, peers)
			}
		})
	}
}

// SetTokens may be called while requests arrive.
func TestSetTokens(t *testing.T) {
	tr := &tracker.Tracker{Tokens: []string{"one"}}
	status := func(token string) int {
		resp, _ := tr.Answer(t.Context(), &tracker.Call{
			Method: "GET", Target: []byte("/ntrk/k?port=0"), Remote: netip.MustParseAddrPort("127.0.0.1:4000"),
			Authorization: []byte("Bearer " + token),
		}, nil)
		return resp.Status
	}
	var asking sync.WaitGroup
	for range 4 {
		asking.Go(func() {
			for range 100 {
				status("one")
			}
		})
	}
	if status("one") != 200 || status("two") != 401 {
		t.Error("Tokens has no effect")
	}
	tr.SetTokens("two")
	if status("one") != 401 || status("two") != 200 {
		t.Error("SetTokens has no effect")
	}
	tr.SetTokens()
	if status("one") != 200 {
		t.Error("a request needs a token after it was removed")
	}
	asking.Wait()
	tr = &tracker.Tracker{Tokens: []string{"one"}}
	tr.SetTokens("two") // before the first request
	if status("one") != 401 || status("two") != 200 {
		t.Error("SetTokens before the first request has no effect")
	}
}
