//go:build !race

package server_test

import (
	"testing"

	"ntrack/tracker"
	"ntrack/tracker/server"
)

// An announce allocates nothing. This test does not run under the race detector, which makes pools
// allocate.
func TestAllocatesNothing(t *testing.T) { bothWays(t, testAllocatesNothing) }

func testAllocatesNothing(t *testing.T, serve serveFunc) {
	s := &server.Server{Tracker: &tracker.Tracker{}}
	c := dial(t, serve(t, s))
	request := []byte("GET /announce?info_hash=%00%ff%80%25%26%2b%3d%3f%0a%0d%20%7f%c3%28%fe%41%2f%23%01%9c&port=51413&compact=1 HTTP/1.1\r\nHost: t\r\nUser-Agent: Transmission/3.00\r\nAccept: */*\r\n\r\n")
	buf := make([]byte, 4096)
	n := testing.AllocsPerRun(1000, func() {
		if _, err := c.Write(request); err != nil {
			t.Error(err)
		}
		if _, err := c.Read(buf); err != nil {
			t.Error(err)
		}
	})
	if n > 0 {
		t.Errorf("%v allocations a request", n)
	}
}
