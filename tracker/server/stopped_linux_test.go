package server_test

import (
	"bytes"
	"testing"

	"ntrack/tracker"
	"ntrack/tracker/server"
)

// If its process was stopped, a worker serves the requests that have arrived in the meantime. Only
// then does it close overdue connections.
func TestWorkerStopped(t *testing.T) {
	s := &server.Server{Tracker: &tracker.Tracker{}}
	out, _, err := s.Overdue([]byte(hello))
	if err != nil || !bytes.HasPrefix(out, []byte("HTTP/1.1 200 OK\r\n")) {
		t.Errorf("a connection with a request: %q, %v", out, err)
	}
	if out, _, err = s.Overdue(nil); err != nil || len(out) > 0 {
		t.Errorf("a connection without a request: %q, %v", out, err)
	}
	if n := s.Conns(); n != 0 {
		t.Errorf("%d connections are still counted", n)
	}
}

// A worker keeps no large buffer for the next connection.
func TestWorkerFreesLargeBuffers(t *testing.T) {
	tr := &tracker.Tracker{MaxWant: 10_000}
	for i := range 5000 {
		join(t, tr, "k", 1+i)
	}
	s := &server.Server{Tracker: tr}
	out, kept, err := s.Overdue([]byte("HEAD /ntrk/k?port=0&numwant=5000 HTTP/1.1\r\nHost: t\r\n\r\n"))
	if err != nil || !bytes.HasPrefix(out, []byte("HTTP/1.1 200 OK\r\n")) || bytes.Contains(out, []byte("Content-Length: 2\r\n")) {
		t.Fatalf("%q, %v", out, err)
	}
	if kept > 128<<10 {
		t.Errorf("it keeps %d bytes", kept)
	}
}
