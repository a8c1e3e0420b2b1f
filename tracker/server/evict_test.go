package server_test

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"ntrack/tracker"
	"ntrack/tracker/server"
)

// A visitor is a client that checks its replies.
type visitor struct {
	net.Conn
	r *bufio.Reader
}

func visit(t *testing.T, addr string) visitor {
	c := dial(t, addr)
	return visitor{c, bufio.NewReader(c)}
}

// look is served by a worker, if there are workers.
func (v visitor) look(t *testing.T) {
	t.Helper()
	get(t, v, v.r, "/ntrk/k?port=0")
}

// post is never served by a worker.
func (v visitor) post(t *testing.T) {
	t.Helper()
	if _, err := io.WriteString(v, "POST /ntrk/k?port=1 HTTP/1.1\r\nHost: t\r\nContent-Length: 1\r\n\r\nx"); err != nil {
		t.Fatal(err)
	}
	resp, err := http.ReadResponse(v.r, nil)
	if err != nil || resp.StatusCode != 200 {
		t.Fatalf("%+v, %v", resp, err)
	}
	if _, err := io.Copy(io.Discard, resp.Body); err != nil {
		t.Fatal(err)
	}
}

// gone checks that the server closes the connection.
func (v visitor) gone(t *testing.T, name string) {
	t.Helper()
	if b, err := io.ReadAll(v.r); err != nil || len(b) > 0 {
		t.Errorf("%s is still open: %q, %v", name, b, err)
	}
}

// If there are too many connections, a new one evicts the one that has been idle longest. It does
// not matter whether a worker or a goroutine of its own has the idle connection.
func TestIdleMakesRoom(t *testing.T) { bothWays(t, testIdleMakesRoom) }

func testIdleMakesRoom(t *testing.T, serve serveFunc) {
	addr := serve(t, &server.Server{Tracker: &tracker.Tracker{}, MaxConns: 50})
	v := make(map[int]visitor)
	var idle []int // keys of v; first the one that has been idle longest
	for i := range 300 {
		v[i] = visit(t, addr)
		if i%3 == 0 {
			v[i].post(t)
		} else {
			v[i].look(t)
		}
		if idle = append(idle, i); i < 50 {
			continue
		}
		v[idle[0]].gone(t, fmt.Sprint(idle[0]))
		if idle = idle[1:]; i%2 == 0 { // an idle connection sends another request
			again := idle[i%len(idle)]
			v[again].look(t)
			idle = append(append(idle[:i%len(idle):i%len(idle)], idle[i%len(idle)+1:]...), again)
		}
	}
	for _, i := range idle {
		v[i].look(t)
	}
}

// A connection is not idle while it has a part of a request, or a stream.
func TestBusyAreNotEvicted(t *testing.T) { bothWays(t, testBusyAreNotEvicted) }

func testBusyAreNotEvicted(t *testing.T, serve serveFunc) {
	tr := &tracker.Tracker{}
	addr := serve(t, &server.Server{Tracker: tr, MaxConns: 4})
	stream := openStream(t, dial(t, addr), "/ntrk/k?port=4000")
	head, body, idle := visit(t, addr), visit(t, addr), visit(t, addr)
	for v, part := range map[visitor]string{head: "GET /ntrk/k?port=0 HT", body: "POST /ntrk/k?port=1 HTTP/1.1\r\nHost: t\r\nContent-Length: 2\r\n\r\nx"} {
		if _, err := io.WriteString(v, "OPTIONS * HTTP/1.1\r\nHost: t\r\n\r\n"+part); err != nil {
			t.Fatal(err)
		}
		if resp, err := http.ReadResponse(v.r, nil); err != nil || resp.StatusCode != 204 {
			t.Fatalf("%+v, %v", resp, err)
		}
	}
	idle.look(t)
	for i := range 10 {
		c := visit(t, addr)
		c.look(t)
		idle.gone(t, fmt.Sprint(i))
		idle = c
	}
	for v, part := range map[visitor]string{head: "TP/1.1\r\nHost: t\r\n\r\n", body: "x"} {
		if _, err := io.WriteString(v, part); err != nil {
			t.Fatal(err)
		}
		if resp, err := http.ReadResponse(v.r, nil); err != nil || resp.StatusCode != 200 {
			t.Errorf("%+v, %v", resp, err)
		}
	}
	join(t, tr, "k", 5000)
	expectEvent(t, stream, "join 127.0.0.1:1;")
	expectEvent(t, stream, "join 192.0.2.7:5000;")
}

// If many connections are silent, a new one evicts the one that has been silent longest, and no
// connection that has sent a request. The evicted one gets a 503.
func TestSilentMakesRoom(t *testing.T) { bothWays(t, testSilentMakesRoom) }

func testSilentMakesRoom(t *testing.T, serve serveFunc) {
	s := &server.Server{Tracker: &tracker.Tracker{}, MaxConns: 8}
	addr := serve(t, s)
	var served [5]visitor
	for i := range served {
		served[i] = visit(t, addr)
		served[i].look(t)
	}
	var silent []visitor
	for range 20 {
		silent = append(silent, visit(t, addr))
		eventually(t, "at most 3 silent", func() bool { return s.Silent() == min(len(silent), 3) })
		if len(silent) > 3 {
			b, err := io.ReadAll(silent[0].r)
			if err != nil || !strings.HasPrefix(string(b), "HTTP/1.1 503 ") {
				t.Fatalf("the one that has been silent longest got %q, %v", b, err)
			}
			silent = silent[1:]
			// As long as it counts, the next one would evict another one.
			eventually(t, "it has ended", func() bool { return s.Conns() == len(served)+len(silent) })
		}
	}
	for _, v := range append(served[:], silent...) {
		v.look(t)
	}
}

// If few connections are silent, they are not evicted for a second: their requests may be on the
// way.
func TestSilentGrace(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		s := &server.Server{Tracker: &tracker.Tracker{}, MaxConns: 8}
		defer shutdown(s)
		l := newArrivals(s)
		arrive := func() visitor {
			c := l.from(&net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 1})
			synctest.Wait()
			return visitor{c, bufio.NewReader(c)}
		}
		status := func(v visitor) string { // of the last reply
			b, err := io.ReadAll(v.r)
			if err != nil {
				t.Error(err)
			}
			v.Close()
			line, _, _ := strings.Cut(string(b), "\r\n")
			return line
		}
		var busy []visitor
		for range 7 {
			v := arrive()
			busy = append(busy, v)
			if _, err := v.Write([]byte("POST /ntrk/k?port=1 HTTP/1.1\r\nHost: t\r\nContent-Length: 1\r\n\r\n")); err != nil {
				t.Fatal(err)
			}
		}
		silent := arrive()
		time.Sleep(900 * time.Millisecond)
		const no = "HTTP/1.1 503 Service Unavailable"
		if got := status(arrive()); got != no {
			t.Errorf("the new one: %q", got)
		}
		time.Sleep(100 * time.Millisecond)
		next := arrive()
		if got := status(silent); got != no {
			t.Errorf("the silent one: %q", got)
		}
		next.look(t)
		last := arrive() // evicts the only idle connection, which has just been served
		next.gone(t, "the idle one")
		last.look(t)
		for _, v := range append(busy, next, last) {
			v.Close()
		}
	})
}

// A connection that is evicted just when a part of its next request arrives does not wait for the rest.
func TestEvictedAtNextRequest(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		s := &server.Server{Tracker: &tracker.Tracker{}, MaxConns: 1}
		defer shutdown(s)
		l := newArrivals(s)
		clientEnd, serverEnd := net.Pipe()
		defer clientEnd.Close()
		c := &secondRead{Conn: from{serverEnd, &net.TCPAddr{IP: net.IPv4(192, 0, 2, 1), Port: 1}}, read: func(b []byte) int {
			other := l.from(&net.TCPAddr{IP: net.IPv4(192, 0, 2, 2), Port: 1})
			t.Cleanup(func() { other.Close() })
			synctest.Wait() // until c is evicted
			return copy(b, "GET /ntrk/k?po")
		}}
		l.conns <- c
		v := visitor{clientEnd, bufio.NewReader(clientEnd)}
		v.look(t)
		began := time.Now()
		v.gone(t, "the evicted one")
		if d := time.Since(began); d > time.Second {
			t.Errorf("it ended after %v", d)
		}
	})
}

// A secondRead is a connection whose second Read calls read.
type secondRead struct {
	net.Conn
	reads int
	read  func([]byte) int
}

func (c *secondRead) Read(b []byte) (int, error) {
	if c.reads++; c.reads != 2 {
		return c.Conn.Read(b)
	}
	return c.read(b), nil
}

// If many connections have begun a request, a new one evicts the one that did so first, and none that
// waits for its next request.
func TestBegunMakesRoom(t *testing.T) { bothWays(t, testBegunMakesRoom) }

func testBegunMakesRoom(t *testing.T, serve serveFunc) {
	s := &server.Server{Tracker: &tracker.Tracker{}, MaxConns: 8}
	addr := serve(t, s)
	var idle [2]visitor
	for i := range idle {
		idle[i] = visit(t, addr)
		idle[i].look(t)
	}
	var begun []visitor
	for i := range 20 {
		v := visit(t, addr)
		if _, err := io.WriteString(v, "GET /ntrk/k?po"); err != nil {
			t.Fatal(err)
		}
		begun = append(begun, v)
		eventually(t, "at most 6 have begun a request", func() bool {
			return s.Stats().Accepted == uint64(len(idle)+i+1) && s.Begun() == min(len(begun), 6) && s.Silent() == 0
		})
		if len(begun) > 6 {
			b, err := io.ReadAll(begun[0].r)
			if err != nil || !strings.HasPrefix(string(b), "HTTP/1.1 503 ") {
				t.Fatalf("the one that began first got %q, %v", b, err)
			}
			begun = begun[1:]
		}
	}
	for _, v := range idle {
		v.look(t)
	}
	for _, v := range begun {
		if _, err := io.WriteString(v, "rt=0 HTTP/1.1\r\nHost: t\r\n\r\n"); err != nil {
			t.Fatal(err)
		}
		if resp, err := http.ReadResponse(v.r, nil); err != nil || resp.StatusCode != 200 {
			t.Errorf("%+v, %v", resp, err)
		}
	}
}
