package server_test

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"testing"
	"time"

	"ntrack/tracker"
	"ntrack/tracker/server"
)

const streamRequest = "GET /ntrk/k?port=4000 HTTP/1.1\r\nHost: t\r\nAccept: text/event-stream\r\n\r\n"

// However a stream ends, and however it began, its peer leaves within seconds. Others stay.
func TestFaultEndings(t *testing.T) { bothWays(t, testFaultEndings) }

func testFaultEndings(t *testing.T, serve serveFunc) {
	noLeaks(t)
	tr := &tracker.Tracker{}
	s := &server.Server{Tracker: tr, Log: server.LogTo(func(line string) { t.Error(line) })}
	addr := serve(t, s)
	member := func(t *testing.T) *watcher { return watch(t, dial(t, addr), "/ntrk/k?port=4000") }
	stays := watch(t, dial(t, addr), "/ntrk/k?port=4001")
	looks := watch(t, dial(t, addr), "/ntrk/k?port=0")
	tcp := func(w *watcher) *net.TCPConn { return w.Conn.(*net.TCPConn) }
	expectJoin := func(t *testing.T, w *watcher, port int) {
		t.Helper()
		if left, err := w.untilJoin(fmt.Sprintf("192.0.2.7:%d;", port)); err != nil || len(left) > 0 {
			t.Fatalf("%q left, %v", left, err)
		}
	}
	for _, tt := range []struct {
		name string
		end  func(t *testing.T)
	}{
		{"close", func(t *testing.T) { member(t).Close() }},
		{"half-close", func(t *testing.T) {
			w := member(t)
			_ = tcp(w).CloseWrite()
			if b, err := io.ReadAll(w.r); err != nil || len(b) > 0 {
				t.Errorf("after the half-close: %q, %v", b, err)
			}
			if l := list(t, tr, "k"); strings.Contains(l, ":4000\n") {
				t.Error("the connection was closed before the peer was removed")
			}
		}},
		{"half-close with the request", func(t *testing.T) {
			c := dial(t, addr)
			_, _ = io.WriteString(c, streamRequest)
			_ = c.(*net.TCPConn).CloseWrite()
			if b, err := io.ReadAll(c); err != nil || !strings.HasPrefix(string(b), "HTTP/1.1 200 ") {
				t.Errorf("%q, %v", b, err)
			}
		}},
		{"reset", func(t *testing.T) {
			w := member(t)
			_ = tcp(w).SetLinger(0)
			w.Close()
		}},
		{"close with unread events", func(t *testing.T) {
			w := member(t)
			for i := range 100 {
				join(t, tr, "k", 7000+i)
			}
			expectJoin(t, looks, 7099)
			expectJoin(t, stays, 7099)
			for i := range 100 {
				call := tracker.Call{Method: "DELETE", Target: fmt.Appendf(nil, "/ntrk/k?port=%d", 7000+i), Remote: netip.MustParseAddrPort("192.0.2.7:1")}
				tr.Answer(t.Context(), &call, nil)
			}
			w.Close()
		}},
		{"close before the reply", func(t *testing.T) {
			v := visit(t, addr)
			v.look(t) // now the server has the connection
			_, _ = io.WriteString(v, streamRequest)
			v.Close()
		}},
		{"reset before the reply", func(t *testing.T) {
			v := visit(t, addr)
			v.look(t) // now the server has the connection
			_, _ = io.WriteString(v, streamRequest)
			_ = v.Conn.(*net.TCPConn).SetLinger(0)
			v.Close()
		}},
		{"some bytes after the request", func(t *testing.T) {
			w := member(t)
			for range 60 {
				if _, err := io.WriteString(w, strings.Repeat("x", 1<<10)); err != nil {
					t.Fatal(err)
				}
			}
			join(t, tr, "k", 6000)
			expectJoin(t, w, 6000)
			w.Close()
		}},
		{"too many bytes after the request", func(t *testing.T) {
			w := member(t)
			sent := 0
			for n, err := 0, error(nil); sent < 16<<20 && err == nil; sent += n {
				n, err = io.WriteString(w, strings.Repeat("GET / HTTP/1.1\r\n\r\n", 60))
			}
			if sent >= 16<<20 { // more than the systems buffer
				t.Errorf("%d bytes were read", sent)
			}
		}},
		{"byte for byte", func(t *testing.T) {
			c := dial(t, addr)
			for i := range len(streamRequest) {
				if _, err := c.Write([]byte{streamRequest[i]}); err != nil {
					t.Fatal(err)
				}
			}
			w := newWatcher(c)
			w.begin(t)
			join(t, tr, "k", 6001)
			expectJoin(t, w, 6001)
			w.Close()
		}},
		{"behind other requests", func(t *testing.T) {
			c := dial(t, addr)
			w := newWatcher(c)
			const other = "GET /ntrk/other?port=0 HTTP/1.1\r\nHost: t\r\n\r\n"
			if _, err := io.WriteString(c, strings.Repeat(other, 40)+streamRequest); err != nil {
				t.Fatal(err)
			}
			for range 40 {
				w.reply(t)
			}
			w.begin(t)
			join(t, tr, "k", 6002)
			expectJoin(t, w, 6002)
			w.Close()
		}},
		{"behind replies that are not read", func(t *testing.T) {
			for i := range 1000 {
				join(t, tr, "many", 1+i)
			}
			c := dialSmallBuffer(t, addr)
			_ = c.SetDeadline(time.Now().Add(patience))
			w := newWatcher(c)
			const requests = 40 // with replies of 16 KB
			text := strings.Repeat("GET /ntrk/many?port=0&numwant=1000&format=text HTTP/1.1\r\nHost: t\r\n\r\n", requests)
			if _, err := io.WriteString(c, text+streamRequest); err != nil {
				t.Fatal(err)
			}
			for range requests {
				w.reply(t)
			}
			w.begin(t)
			join(t, tr, "k", 6003)
			expectJoin(t, w, 6003)
			w.Close()
		}},
		{"before another request", func(t *testing.T) {
			c := dial(t, addr)
			w := newWatcher(c)
			if _, err := io.WriteString(c, streamRequest+strings.Replace(streamRequest, "4000", "4002", 1)+hello); err != nil {
				t.Fatal(err)
			}
			w.begin(t)
			join(t, tr, "k", 6004)
			expectJoin(t, w, 6004)
			if l := list(t, tr, "k"); strings.Contains(l, ":4002\n") {
				t.Error("the request after the stream was served")
			}
			w.Close()
		}},
		{"in HTTP/1.0", func(t *testing.T) {
			c := dial(t, addr)
			_, _ = io.WriteString(c, "GET /ntrk/k?port=4000 HTTP/1.0\r\nConnection: keep-alive\r\nAccept: text/event-stream\r\n\r\n")
			w := newWatcher(c)
			w.begin(t)
			w.Close()
		}},
	} {
		t.Run(strings.ReplaceAll(tt.name, " ", "-"), func(t *testing.T) {
			tt.end(t)
			eventually(t, "connections: 2", func() bool { return s.Conns() == 2 })
			if l := list(t, tr, "k"); strings.Contains(l, ":4000\n") {
				t.Fatalf("listed: %q", l)
			}
			join(t, tr, "k", 9000) // a mark in the streams of the others
			for _, w := range []*watcher{looks, stays} {
				left, err := w.untilJoin("192.0.2.7:9000;")
				for _, p := range left {
					if p != "127.0.0.1:4000;" && !strings.HasPrefix(p, "192.0.2.7:70") {
						t.Errorf("%s left", p)
					}
				}
				if err != nil || w.peers["127.0.0.1:4000;"] {
					t.Fatalf("the peer is there: %v; %v", w.peers["127.0.0.1:4000;"], err)
				}
			}
			call := tracker.Call{Method: "DELETE", Target: []byte("/ntrk/k?port=9000"), Remote: netip.MustParseAddrPort("192.0.2.7:1")}
			tr.Answer(t.Context(), &call, nil)
			for _, w := range []*watcher{looks, stays} {
				if name, p, err := w.next(); err != nil || name != "leave" || p != "192.0.2.7:9000;" {
					t.Fatalf("%s %s, %v", name, p, err)
				}
			}
		})
	}
}

// reply reads a reply with the status 200 to its end.
func (w *watcher) reply(t *testing.T) {
	t.Helper()
	resp, err := http.ReadResponse(w.r, nil)
	if err != nil {
		t.Fatal(err)
	}
	if b, err := io.ReadAll(resp.Body); err != nil || resp.StatusCode != 200 {
		t.Fatalf("%s, %s, %v", resp.Status, b, err)
	}
}

// A DELETE, or a classic announce with event=stopped, ends all streams of a peer, and no others. The
// end of one of two streams of a peer is no leave.
func TestFaultLeaves(t *testing.T) { bothWays(t, testFaultLeaves) }

func testFaultLeaves(t *testing.T, serve serveFunc) {
	noLeaks(t)
	tr := &tracker.Tracker{}
	addr := serve(t, &server.Server{Tracker: tr, Log: server.LogTo(func(line string) { t.Error(line) })})
	looks := watch(t, dial(t, addr), "/ntrk/k?port=0")
	const self = "127.0.0.1:4000;"
	open := func(target string) *watcher { return watch(t, dial(t, addr), target) }
	expect := func(w *watcher, want string) {
		t.Helper()
		if name, p, err := w.next(); err != nil || name+" "+p != want {
			t.Fatalf("%s %s, %v; want %s", name, p, err, want)
		}
	}
	for _, leave := range []string{"DELETE /ntrk/k?port=4000 HTTP/1.0\r\n\r\n", "GET /announce?info_hash=k&port=4000&event=stopped HTTP/1.0\r\n\r\n"} {
		first, second := open("/ntrk/k?port=4000"), open("/ntrk/k?port=4000")
		expect(looks, "join "+self)
		otherKey, otherPort := open("/ntrk/k2?port=4000"), open("/ntrk/k?port=4001")
		expect(looks, "join 127.0.0.1:4001;")
		expect(first, "join 127.0.0.1:4001;")
		expect(second, "join 127.0.0.1:4001;")
		third := open("/ntrk/k?port=4000")
		third.Close()

		c := dial(t, addr)
		_, _ = io.WriteString(c, leave)
		if b, err := io.ReadAll(c); err != nil || !strings.HasPrefix(string(b), "HTTP/1.1 20") {
			t.Errorf("%q, %v", b, err)
		}
		for _, w := range []*watcher{first, second} {
			if b, err := io.ReadAll(w.r); err != nil || len(b) > 0 {
				t.Errorf("%q, %v instead of the end of the stream", b, err)
			}
		}
		expect(looks, "leave "+self)
		expect(otherPort, "leave "+self)
		join(t, tr, "k2", 5000)
		expect(otherKey, "join 192.0.2.7:5000;")
		back := open("/ntrk/k?port=4000") // at once: the old streams must not end its hold
		expect(looks, "join "+self)
		expect(otherPort, "join "+self)
		first.Close()
		second.Close()
		join(t, tr, "k", 5000)
		for _, w := range []*watcher{looks, otherPort, back} {
			expect(w, "join 192.0.2.7:5000;")
		}
		back.Close()
		expect(looks, "leave "+self)
		otherPort.Close()
		expect(looks, "leave 127.0.0.1:4001;")
		otherKey.Close()
		eventually(t, "nobody is left", func() bool { return list(t, tr, "k")+list(t, tr, "k2") == "192.0.2.7:5000\n192.0.2.7:5000\n" })
		for _, key := range []string{"k", "k2"} {
			call := tracker.Call{Method: "DELETE", Target: []byte("/ntrk/" + key + "?port=5000"), Remote: netip.MustParseAddrPort("192.0.2.7:1")}
			tr.Answer(t.Context(), &call, nil)
		}
		expect(looks, "leave 192.0.2.7:5000;")
	}

	// Two programs with one endpoint are shown that they share it. Two streams of one program are not.
	target := func(id string) string { return "/ntrk/k?port=4000&peer_id=" + strings.Repeat(id, 40) }
	a := open(target("a"))
	expect(looks, "join "+self)
	again := open(target("a"))
	again.Close()
	b := open(target("b"))
	expect(a, "shared "+self)
	if a.shared != true || b.shared != true {
		t.Errorf("shared: %v, %v", a.shared, b.shared)
	}
	noID := open("/ntrk/k?port=4000")
	_ = b.Conn.(*net.TCPConn).SetLinger(0)
	b.Close()
	expect(a, "unshared "+self)
	c := open(target("c"))
	expect(a, "shared "+self)
	a.Close()
	expect(c, "unshared "+self)
	c.Close()
	join(t, tr, "k", 5001)
	expect(looks, "join 192.0.2.7:5001;")
	expect(noID, "join 192.0.2.7:5001;")
	noID.Close()
	expect(looks, "leave "+self)
}
