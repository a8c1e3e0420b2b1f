package server_test

import (
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"ntrack/tracker"
	"ntrack/tracker/server"
)

// Streams are never evicted, but count for MaxConns until they end, in whatever way they do.
func TestFaultMaxConns(t *testing.T) { bothWays(t, testFaultMaxConns) }

func testFaultMaxConns(t *testing.T, serve serveFunc) {
	const most = 12
	noLeaks(t)
	tr := &tracker.Tracker{}
	s := &server.Server{Tracker: tr, MaxConns: most}
	addr := serve(t, s)
	refused := func(request string) {
		t.Helper()
		c := dial(t, addr)
		defer c.Close()
		_, _ = io.WriteString(c, request)
		if b, err := io.ReadAll(c); err != nil || !strings.HasPrefix(string(b), "HTTP/1.1 503 ") {
			t.Fatalf("one connection too many got %q, %v", b, err)
		}
	}
	ends := []func(*watcher){
		func(w *watcher) { w.Close() },
		func(w *watcher) {
			_ = w.Conn.(*net.TCPConn).SetLinger(0)
			w.Close()
		},
		func(w *watcher) {
			_ = w.Conn.(*net.TCPConn).CloseWrite()
			_, _ = io.Copy(io.Discard, w.r)
		},
		func(w *watcher) { _, _ = w.Write(make([]byte, 128<<10)) },
		func(w *watcher) {
			leaveAs(t, tr, "k", 5000) // an event that is on its way
			w.Close()
		},
	}
	for round := range 4 {
		var streams []*watcher
		var idle []visitor
		for range most / 3 {
			v := visit(t, addr)
			v.look(t)
			idle = append(idle, v)
		}
		for i := range most { // the last third evicts the idle ones
			streams = append(streams, watch(t, dial(t, addr), fmt.Sprintf("/ntrk/k?port=%d", 4000+i)))
		}
		for i, v := range idle {
			v.gone(t, fmt.Sprint(i))
		}
		refused(hello)
		refused(strings.Replace(streamRequest, "4000", "4999", 1))
		join(t, tr, "k", 5000)
		for i, w := range streams {
			if left, err := w.untilJoin("192.0.2.7:5000;"); err != nil || len(left) > 0 || len(w.peers) != most {
				t.Errorf("stream %d: %d peers, %q left, %v", i, len(w.peers), left, err)
			}
		}
		for i, w := range streams {
			ends[(i+round)%len(ends)](w)
		}
		eventually(t, "connections: 0", func() bool { return s.Conns() == 0 })
		leaveAs(t, tr, "k", 5000)
		if l := list(t, tr, "k"); l != "" {
			t.Errorf("listed: %q", l)
		}
		for _, w := range streams {
			w.Close()
		}
	}
}

// Streams begin and end at random, together with announces and leaves, over real connections. The
// watchers see what is listed in the end.
func TestFaultChurn(t *testing.T) { bothWays(t, testFaultChurn) }

func testFaultChurn(t *testing.T, serve serveFunc) {
	const (
		peers  = 60
		rounds = 30
	)
	noLeaks(t)
	tr := &tracker.Tracker{}
	s := &server.Server{Tracker: tr, Log: server.LogTo(func(line string) { t.Error(line) })}
	addr := serve(t, s)
	var watchers []*watcher
	for range 4 {
		watchers = append(watchers, watch(t, dial(t, addr), "/ntrk/k?port=0"))
	}
	var wg sync.WaitGroup
	var stays [peers]bool
	for i := range peers {
		wg.Go(func() {
			rnd := rand.New(rand.NewPCG(uint64(i), 1))
			target := fmt.Sprintf("/ntrk/k?port=%d", 4000+i)
			var open []net.Conn
			defer func() {
				for _, c := range open {
					c.Close()
				}
			}()
			dial := func() net.Conn {
				c, err := net.Dial("tcp", addr)
				if err != nil {
					t.Error(err)
					return nil
				}
				_ = c.SetDeadline(time.Now().Add(patience))
				return c
			}
			ask := func(method string) {
				if c := dial(); c != nil {
					fmt.Fprintf(c, "%s %s HTTP/1.0\r\n\r\n", method, target)
					_, _ = io.Copy(io.Discard, c)
					c.Close()
				}
			}
			for range rounds {
				switch rnd.IntN(6) {
				case 0:
					ask("DELETE")
					stays[i] = false
				case 1:
					ask("GET")
					stays[i] = true
				case 2:
					for _, c := range open {
						if rnd.IntN(2) == 0 {
							_ = c.(*net.TCPConn).SetLinger(0)
						}
						c.Close()
					}
					open = nil
				}
				c := dial()
				if c == nil {
					return
				}
				open = append(open, c)
				fmt.Fprintf(c, "GET %s&peer_id=%040d HTTP/1.1\r\nHost: t\r\nAccept: text/event-stream\r\n\r\n", target, 1+rnd.IntN(2))
				if rnd.IntN(4) > 0 { // wait for the reply
					if _, err := c.Read(make([]byte, 1+rnd.IntN(1000))); err != nil {
						t.Error(err)
					}
				}
			}
		})
	}
	wg.Wait()
	eventually(t, "connections", func() bool { return s.Conns() == len(watchers) })
	n := 0
	for i, stay := range stays {
		if stay {
			n++
		}
		if strings.Contains(list(t, tr, "k"), fmt.Sprintf("127.0.0.1:%d\n", 4000+i)) != stay {
			t.Errorf("peer %d: listed %v, want %v", i, !stay, stay)
		}
	}
	if n == 0 || n == peers {
		t.Errorf("%d of %d peers stay", n, peers)
	}
	join(t, tr, "k", 9000)
	for _, w := range watchers {
		if _, err := w.untilJoin("192.0.2.7:9000;"); err != nil {
			t.Fatal(err)
		}
		if len(w.peers) != n+1 {
			t.Errorf("a watcher has %d peers, want %d", len(w.peers), n+1)
		}
		for i, stay := range stays {
			if p := fmt.Sprintf("127.0.0.1:%d;", 4000+i); w.peers[p] != stay {
				t.Errorf("%s: there %v, want %v", p, !stay, stay)
			}
		}
	}
}
