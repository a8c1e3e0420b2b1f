package server_test

import (
	"bufio"
	"io"
	"net"
	"strings"
	"testing"
	"testing/synctest"

	"ntrack/tracker"
	"ntrack/tracker/server"
)

// Each connection counts under what became of it.
func TestStatsOfConns(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		s := &server.Server{Tracker: &tracker.Tracker{}, MaxConns: 2, MaxConnsPerAddr: 1}
		defer shutdown(s)
		l := newArrivals(s)
		arrive := func(last byte) net.Conn {
			c := l.from(&net.TCPAddr{IP: net.IPv4(192, 0, 2, last), Port: 1})
			t.Cleanup(func() { c.Close() })
			return c
		}
		refuse := func(last byte) {
			if b, err := io.ReadAll(arrive(last)); err != nil || !strings.HasPrefix(string(b), "HTTP/1.1 503 ") {
				t.Errorf("the connection of %d got %q, %v", last, b, err)
			}
		}
		openStream(t, arrive(1), "/ntrk/k?port=0")
		refuse(1)
		idle := arrive(2)
		get(t, idle, bufio.NewReader(idle), "/ntrk/k?port=0")
		synctest.Wait()
		openStream(t, arrive(3), "/ntrk/k?port=0") // takes the place of the idle one
		refuse(4)
		synctest.Wait()
		st := s.Stats()
		if st.Accepted != 3 || st.Evicted != 1 || st.RefusedPerAddr != 1 || st.RefusedConns != 1 || st.RefusedRate != 0 || st.Panics != 0 {
			t.Errorf("%+v", st)
		}
	})
}

// Challenge answers a GET before the tracker does, and leaves everything else to it.
func TestChallenge(t *testing.T) { bothWays(t, testChallenge) }

func testChallenge(t *testing.T, serve serveFunc) {
	const path = "/.well-known/acme-challenge/x"
	s := &server.Server{Tracker: &tracker.Tracker{Tokens: []string{"secret"}}, Challenge: func(target []byte) []byte {
		if string(target) == path {
			return []byte("proof")
		}
		return nil
	}}
	c := dial(t, serve(t, s))
	r := bufio.NewReader(c)
	for range 2 {
		if status, body := getReply(t, c, r, path, ""); status != 200 || body != "proof" {
			t.Errorf("the challenge: %d %q", status, body)
		}
		if status, _ := getReply(t, c, r, "/ntrk/k", ""); status != 401 {
			t.Errorf("an announce without the token: %d", status)
		}
	}
	if _, err := io.WriteString(c, "DELETE "+path+" HTTP/1.1\r\nHost: t\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	if status, body := readReply(t, r); status == 200 || body == "proof" {
		t.Errorf("a DELETE: %d %q", status, body)
	}
}
