package server_test

import (
	"bufio"
	"crypto/tls"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"ntrack/tracker"
	"ntrack/tracker/server"
)

// serveTLS makes s serve TLS until the test ends. It returns the address, and what a client needs.
func serveTLS(t *testing.T, s *server.Server) (addr string, client *tls.Config) {
	t.Helper()
	std := httptest.NewTLSServer(nil) // for its certificate
	t.Cleanup(std.Close)
	l := listen(t)
	go s.ServeTLS(l, &tls.Config{Certificates: std.TLS.Certificates, NextProtos: []string{"http/1.1"}})
	t.Cleanup(func() { _ = shutdown(s) })
	config := std.Client().Transport.(*http.Transport).TLSClientConfig.Clone()
	config.ServerName = "example.com"
	return l.Addr().String(), config
}

// A client that speaks http to a port of https can read why that fails. Other nonsense gets an alert
// of TLS.
func TestPlainOverTLS(t *testing.T) {
	addr, _ := serveTLS(t, &server.Server{Tracker: &tracker.Tracker{}})
	for _, method := range []string{"GET", "HEAD", "POST", "DELETE", "OPTIONS"} {
		c := dial(t, addr)
		// A long request is not read to its end, and still the client gets the reply.
		if _, err := io.WriteString(c, method+" /ntrk/k?port=1 HTTP/1.1\r\nHost: h\r\nA: "+strings.Repeat("a", 8000)+"\r\n\r\n"); err != nil {
			t.Fatal(err)
		}
		resp, err := http.ReadResponse(bufio.NewReader(c), nil)
		if err != nil {
			t.Fatalf("%s: %v", method, err)
		}
		body, err := io.ReadAll(resp.Body)
		if err != nil || resp.StatusCode != 400 || string(body) != "this port speaks https, not http\n" {
			t.Errorf("%s: status %d, %q, %v", method, resp.StatusCode, body, err)
		}
	}
	for _, text := range []string{"\x00\x01\x02\x03\x04\x05", "GETTER / HTTP/1.1\r\n\r\n"} {
		c := dial(t, addr)
		if _, err := io.WriteString(c, text); err != nil {
			t.Fatal(err)
		}
		if b, _ := io.ReadAll(c); strings.Contains(string(b), "HTTP") {
			t.Errorf("%q: got %q", text, b)
		}
	}
}

// A handshake that is not finished ends with the time for a request, and does not count any longer.
func TestHandshakeTimeout(t *testing.T) {
	addr, config := serveTLS(t, &server.Server{Tracker: &tracker.Tracker{}, Timeout: time.Second, MaxConns: 1})
	for _, begin := range []string{"", "\x16", "\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"} {
		c := dial(t, addr)
		if _, err := io.WriteString(c, begin); err != nil {
			t.Fatal(err)
		}
		began := time.Now()
		if _, err := io.ReadAll(c); isTimeout(err) {
			t.Errorf("after %q the connection is open for more than %v", begin, time.Since(began))
		}
	}
	c, err := dialTLS(addr, config)
	if err != nil {
		t.Fatal(err)
	}
	c.Close()
}

func isTimeout(err error) bool {
	e, ok := err.(net.Error)
	return ok && e.Timeout()
}
