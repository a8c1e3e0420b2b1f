package server_test

import (
	"bufio"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"sync"
	"testing"
	"time"

	"ntrack/tracker"
	"ntrack/tracker/server"
)

// A TLS client too many that says nothing does not keep others from being accepted.
func TestMaxConnsTLS(t *testing.T) {
	std := httptest.NewTLSServer(nil) // for its certificate
	defer std.Close()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &server.Server{Tracker: &tracker.Tracker{}, MaxConns: 1, Logf: t.Logf}
	go s.Serve(tls.NewListener(l, &tls.Config{Certificates: std.TLS.Certificates}))
	defer shutdown(s)
	secure := std.Client().Transport.(*http.Transport).TLSClientConfig
	first, err := dialTLS(l.Addr().String(), secure)
	if err != nil {
		t.Fatal(err)
	}
	r := bufio.NewReader(first)
	get(t, first, r, "/ntrk/k?port=1")
	if _, err := io.WriteString(first, "OPTIONS * HTTP/1.1\r\nHost: t\r\n\r\nGET"); err != nil {
		t.Fatal(err)
	}
	if resp, err := http.ReadResponse(r, nil); err != nil || resp.StatusCode != 204 { // so it is not idle
		t.Fatalf("%+v, %v", resp, err)
	}
	mute := dial(t, l.Addr().String())
	if n, _ := mute.Read(make([]byte, 1)); n != 0 {
		t.Error("the one too many got an answer")
	}
	first.Close()
	for deadline := time.Now().Add(10 * time.Second); ; {
		c, err := dialTLS(l.Addr().String(), secure)
		if err == nil {
			get(t, c, bufio.NewReader(c), "/ntrk/k?port=1")
			c.Close()
			return
		}
		if time.Now().After(deadline) {
			t.Fatal(err)
		}
	}
}

// Connections that come while the server is shut down neither panic nor outlive it.
func TestShutdownRace(t *testing.T) {
	var clients sync.WaitGroup
	defer clients.Wait()
	for i := range 200 {
		l := listen(t)
		if i%2 > 0 {
			l = notTCP{l}
		}
		s := &server.Server{Tracker: &tracker.Tracker{}}
		ended := make(chan error)
		go func() { ended <- s.Serve(l) }()
		for range 3 {
			clients.Go(func() {
				if c, err := net.Dial("tcp", l.Addr().String()); err == nil {
					_ = c.SetReadDeadline(time.Now().Add(time.Minute))
					if _, err := c.Read(make([]byte, 1)); errors.Is(err, os.ErrDeadlineExceeded) {
						t.Error("a connection outlives its server")
					}
					c.Close()
				}
			})
		}
		if err := shutdown(s); err != nil {
			t.Fatal(err)
		}
		if err := await(t, "Serve", ended); err != server.ErrClosed {
			t.Fatal(err)
		}
	}
}
