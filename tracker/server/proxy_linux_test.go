package server_test

import (
	"bufio"
	"io"
	"net/netip"
	"strings"
	"testing"
	"time"
)

// A worker takes a PROXY header in any two parts, and in single bytes, and serves the connection
// itself, streams included.
func TestWorkerProxyHeader(t *testing.T) {
	proxy := netip.MustParseAddrPort("127.0.0.1:9")
	s := behindProxy(func(line string) { t.Error(line) })
	w := s.TestWorker(t, listen(t))
	const request = "GET /ntrk/k?format=json HTTP/1.1\r\nHost: t\r\n\r\n"
	for _, tt := range proxyHeaders {
		all := tt.header + request
		splits := [][]int{nil}
		for i := range len(tt.header) + 1 { // a request in two parts gets a goroutine
			if i < 40 || i > len(tt.header)-3 {
				splits[0] = append(splits[0], i)
				splits = append(splits, []int{i})
			}
		}
		for _, split := range splits {
			c := w.AddConn(proxy, 1<<16)
			sent := 0
			for _, i := range append(split[:len(split):len(split)], len(all)) {
				if _, err := io.WriteString(c, all[sent:i]); err != nil {
					t.Fatal(err)
				}
				sent = i
				w.ServeEvents()
			}
			_ = c.SetReadDeadline(time.Now().Add(patience))
			status, body := readReply(t, bufio.NewReader(c))
			if status != 200 || tt.client == "" && !strings.Contains(body, `"you":null`) || tt.client != "" && !strings.Contains(body, `"you":"`+tt.client+`"`) {
				t.Errorf("%s, split at %v: %d %s", tt.name, split, status, body)
			}
			c.Close()
			w.ServeEvents()
		}
	}
	if n := s.Goroutines(); n != 0 {
		t.Errorf("%d connections have a goroutine", n)
	}
	if n := s.Conns(); n != 0 {
		t.Errorf("%d connections are left", n)
	}
}

// A worker logs that a header is late, but not at its own end.
func TestWorkerLateProxyHeader(t *testing.T) {
	for _, part := range []string{"", "PROXY TCP4 192", "PROXY UNKNOWN\r\n"} {
		var log []string
		s := behindProxy(func(line string) { log = append(log, line) })
		s.Timeout = time.Nanosecond
		w := s.TestWorker(t, listen(t))
		c := w.AddRequest(netip.MustParseAddrPort("127.0.0.1:9"), 1<<16, part)
		w.Housekeeping()
		_ = c.SetReadDeadline(time.Now().Add(patience))
		if b, err := io.ReadAll(c); len(b) > 0 || err != nil {
			t.Errorf("%q: got %q, %v", part, b, err)
		}
		if late := !strings.HasSuffix(part, "\n"); late != (len(log) == 1 && strings.Contains(log[0], "did not come in time")) || !late && len(log) > 0 {
			t.Errorf("%q: logged %q", part, log)
		}
		log = nil
		w.AddRequest(netip.MustParseAddrPort("127.0.0.1:9"), 1<<16, part)
		w.End()
		if len(log) > 0 {
			t.Errorf("%q: at the end logged %q", part, log)
		}
	}
}
