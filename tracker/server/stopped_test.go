package server_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"ntrack/tracker"
	"ntrack/tracker/server"
)

// A sleeper is a connection of a process that is stopped for an hour while it reads or writes. When
// the process goes on, the deadline is over.
type sleeper struct {
	net.Conn
	awake bool
}

func (s *sleeper) Read(b []byte) (int, error)  { return s.sleep(s.Conn.Read(b)) }
func (s *sleeper) Write(b []byte) (int, error) { return s.sleep(s.Conn.Write(b)) }

func (s *sleeper) sleep(n int, err error) (int, error) {
	if errors.Is(err, os.ErrDeadlineExceeded) && !s.awake {
		s.awake = true
		time.Sleep(time.Hour)
	}
	return n, err
}

// A client that sends or reads bytes while the process is stopped does not lose its connection.
func TestStopped(t *testing.T) {
	const look = "GET /ntrk/crowd?port=0&numwant=1000 HTTP/1.1\r\nHost: t\r\n\r\n"
	const post = "POST /ntrk/k?port=4000&format=json HTTP/1.1\r\nHost: t\r\n"
	for name, parts := range map[string][]string{
		"the first request":            {"", post + "\r\n"},
		"the second request":           {look, post + "\r\n"},
		"half a request":               {post[:20], post[20:] + "\r\n"},
		"a body":                       {post + "Content-Length: 3\r\n\r\n", "abc"},
		"a body in chunks":             {post + "Transfer-Encoding: chunked\r\n\r\n", "3\r\nabc\r\n0\r\n\r\n"},
		"half of a chunk":              {post + "Transfer-Encoding: chunked\r\n\r\n3\r\na", "bc\r\n0\r\n\r\n"},
		"nothing":                      {"", ""},
		"nothing after a request":      {look, ""},
		"nothing after half a request": {post[:20], ""},
		"the reply":                    {look},
	} {
		t.Run(strings.ReplaceAll(name, " ", "-"), func(t *testing.T) {
			inBubble(t, func(t *testing.T) {
				tr := &tracker.Tracker{}
				for i := range 2000 {
					call := tracker.Call{Method: "GET", Target: fmt.Appendf(nil, "/ntrk/crowd?port=%d&numwant=0", 1+i), Remote: netip.MustParseAddrPort("192.0.2.1:1")}
					tr.Answer(t.Context(), &call, nil)
				}
				s := &server.Server{Tracker: tr}
				defer s.Shutdown(context.Background())
				client, serverEnd := net.Pipe()
				defer client.Close()
				go s.Serve(&oneListener{conn: &sleeper{Conn: fromSomewhere{serverEnd}}, done: make(chan struct{})})
				r := bufio.NewReader(client)
				reply := func() {
					t.Helper()
					resp, err := http.ReadResponse(r, nil)
					if err != nil {
						t.Fatal(err)
					}
					defer resp.Body.Close()
					if body, err := io.ReadAll(resp.Body); resp.StatusCode != 200 || err != nil || len(body) == 0 {
						t.Fatalf("status %d, %d bytes, %v", resp.StatusCode, len(body), err)
					}
				}
				_, _ = io.WriteString(client, parts[0])
				if parts[0] == look && len(parts) > 1 {
					reply()
				}
				time.Sleep(30 * time.Minute) // the process is stopped by now
				if len(parts) == 1 {
					reply()
					return
				}
				go io.WriteString(client, parts[1])
				if parts[1] != "" {
					reply()
					return
				}
				began := time.Now()
				rest, _ := io.ReadAll(r)
				if d := time.Since(began); d > 35*time.Minute {
					t.Errorf("a client that sends nothing loses its connection after %v, with %q", d, rest)
				}
			})
		})
	}
}
