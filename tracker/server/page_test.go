package server_test

import (
	"context"
	"crypto/tls"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"testing/fstest"

	"ntrack/tracker"
	"ntrack/tracker/server"
)

// The page is the same over TCP, TLS and a Unix socket, by GET and by HEAD, also many times over one
// connection.
func TestPage(t *testing.T) {
	text := strings.Repeat("page ", 4000)
	newServer := func() *server.Server {
		tr := &tracker.Tracker{Page: fstest.MapFS{"index.html": {Data: []byte(text)}}}
		return &server.Server{Tracker: tr, Log: server.LogTo(func(line string) { t.Error(line) })}
	}
	secure, config := serveTLS(t, newServer())
	socket, err := net.Listen("unix", t.TempDir()+"/s")
	if err != nil {
		t.Fatal(err)
	}
	behind := newServer()
	go behind.Serve(socket)
	t.Cleanup(func() { _ = shutdown(behind) })
	plain := serve(t, newServer())
	for name, connect := range map[string]func() (net.Conn, error){
		"TCP":  func() (net.Conn, error) { return net.Dial("tcp", plain) },
		"TLS":  func() (net.Conn, error) { return tls.Dial("tcp", secure, config) },
		"Unix": func() (net.Conn, error) { return net.Dial("unix", socket.Addr().String()) },
	} {
		t.Run(name, func(t *testing.T) {
			dials := 0
			client := &http.Client{Transport: &http.Transport{DialContext: func(context.Context, string, string) (net.Conn, error) {
				dials++
				return connect()
			}}}
			defer client.CloseIdleConnections()
			for i := range 40 {
				method, want := "GET", text
				if i%4 == 3 {
					method, want = "HEAD", ""
				}
				request, err := http.NewRequestWithContext(t.Context(), method, "http://t/ntrk/k", nil)
				if err != nil {
					t.Fatal(err)
				}
				request.Header.Set("Accept", "text/html")
				request.Header.Set("X-Forwarded-For", "192.0.2.1")
				reply, err := client.Do(request)
				if err != nil {
					t.Fatal(err)
				}
				body, err := io.ReadAll(reply.Body)
				_ = reply.Body.Close()
				if err != nil || reply.StatusCode != 200 || string(body) != want || reply.ContentLength != int64(len(text)) ||
					reply.Header.Get("Content-Type") != "text/html; charset=utf-8" || reply.Header.Get("Content-Security-Policy") == "" {
					t.Fatalf("%s %d: %v, %+v, %d bytes", method, i, err, reply, len(body))
				}
			}
			if dials != 1 {
				t.Errorf("%d connections", dials)
			}
		})
	}
}
