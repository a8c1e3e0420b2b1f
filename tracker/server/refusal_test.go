package server_test

import (
	"bufio"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"ntrack/tracker"
	"ntrack/tracker/server"
)

// If the tracker cannot see a request, its refusal is still like any other. It must not be cached,
// a web page may read it, and it has the format that the client asked for, as far as that can be
// read.
func TestRefusals(t *testing.T) { bothWays(t, testRefusals) }

func testRefusals(t *testing.T, serve serveFunc) {
	const (
		text    = "text/plain; charset=utf-8"
		origin  = "Origin: http://page.example\r\n"
		bad     = "Host: t\r\nX y\r\n"
		classic = "d14:failure reason"
		trailer = "POST /ntrk/k HTTP/1.1\r\nHost: t\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n"
	)
	long := strings.Repeat("x", 20_000)
	addr := serve(t, &server.Server{Tracker: &tracker.Tracker{}})
	for _, tt := range []struct {
		send        string
		status      int
		contentType string
		body        string // the beginning of the body
		cors        bool
	}{
		{"GET /ntrk/k HTTP/1.1\r\n" + bad + "\r\n", 400, text, "header: ", false},
		{"GET /ntrk/k HTTP/1.1\r\n" + bad + origin + "\r\n", 400, text, "header: ", true},
		{"GET /ntrk/k HTTP/1.1\r\n" + origin + bad + "\r\n", 400, text, "header: ", true},
		{"GET /ntrk/k?format=json HTTP/1.1\r\n" + bad + "\r\n", 400, "application/json", `{"error":"header: `, false},
		{"GET /ntrk/k HTTP/1.1\r\n" + bad + "Accept: application/json\r\n\r\n", 400, "application/json", `{"error":"header: `, false},
		{"GET /ntrk/k?format=bencode HTTP/1.1\r\n" + bad + "\r\n", 400, "application/x-bencode", classic, false},
		{"GET /announce?info_hash=k HTTP/1.1\r\n" + bad + "\r\n", 200, "text/plain", classic, false},
		{"GET /tracker?info_hash=k HTTP/1.1\r\n" + bad + origin + "\r\n", 200, "text/plain", classic, true},
		{"GET /scrape HTTP/1.1\r\n" + bad + "\r\n", 200, "text/plain", classic, false},
		{"GET http://t/announce HTTP/1.1\r\n" + bad + "\r\n", 200, "text/plain", classic, false},
		{"POST /announce HTTP/1.1\r\n" + bad + "\r\n", 400, text, "header: ", false},
		{"GET /announce HTTP/1.1\r\n\r\n", 200, "text/plain", classic, false},
		{"GET /announce HTTP/3.0\r\nHost: t\r\n\r\n", 200, "text/plain", classic, false},
		{"GET /announce HTTP/1.1\r\nHost: t\r\nTransfer-Encoding: gzip\r\n\r\n", 200, "text/plain", classic, false},
		{"POST /ntrk/k?format=json HTTP/1.1\r\nHost: t\r\nTransfer-Encoding: chunked\r\n\r\nx\r\n", 400, "application/json", `{"error":"body: `, false},
		{"POST /ntrk/k HTTP/1.1\r\nHost: t\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nX: " + long + "\r\n\r\n", 400, text, "trailer", false},
		{trailer + "X: a\n\r\n", 400, text, "trailer", false},
		{trailer + "\n\r\n", 400, text, "trailer", false},
		{trailer + "\r\r\n\r\n", 400, text, "trailer", false},
		{trailer + "X: a\rY: b\r\n\r\n", 400, text, "trailer", false},
		{trailer + "X : a\r\n\r\n", 400, text, "trailer", false},
		{trailer + "X: a\r\n Y: b\r\n\r\n", 400, text, "trailer", false},
		{trailer + "GET /ntrk/k HTTP/1.1\r\n\r\n", 400, text, "trailer", false},
		{"GET /announce?info_hash=k HTTP/1.1\r\n" + origin + "Host: t\r\nX: " + long + "\r\n\r\n", 200, "text/plain", classic, true},
		{"GET /ntrk/k HTTP/1.1\r\nHost: t\r\nX: " + long + "\r\n\r\n", 400, text, "request line and headers: ", false},
		{"GET /announce?info_hash=" + long + long, 200, "text/plain", classic, false},
		{"GET /ntrk/k?format=json&x=" + long + long, 400, "application/json", `{"error":"request line and headers: `, false},
		{"\x16\x03\x01", 400, text, "not an HTTP request", false},
		{"nonsense\r\n\r\n", 400, text, "request line: ", false},
	} {
		shown := fmt.Sprintf("%.60q", tt.send)
		c := dial(t, addr)
		_ = c.SetDeadline(time.Now().Add(20 * time.Second))
		if _, err := io.WriteString(c, tt.send); err != nil {
			t.Fatal(shown, err)
		}
		r := bufio.NewReader(c)
		resp, err := http.ReadResponse(r, nil)
		if err != nil {
			t.Fatal(shown, err)
		}
		body, err := io.ReadAll(resp.Body)
		h := resp.Header
		if err != nil || resp.StatusCode != tt.status || h.Get("Content-Type") != tt.contentType || !strings.HasPrefix(string(body), tt.body) {
			t.Errorf("%s: %d, %s, %q, %v; want %d, %s, %q", shown, resp.StatusCode, h.Get("Content-Type"), body, err, tt.status, tt.contentType, tt.body)
		}
		if h.Get("Cache-Control") != "no-store" || (h.Get("Access-Control-Allow-Origin") == "*") != tt.cors || !resp.Close {
			t.Errorf("%s: headers %v", shown, h)
		}
		if _, err := r.ReadByte(); err != io.EOF {
			t.Errorf("%s: after the reply %v", shown, err)
		}
		_ = c.Close()
	}
}

// The server reads a body up to a limit, and within the time for its request.
func TestChunkedBody(t *testing.T) {
	const head = "POST /ntrk/k?format=text HTTP/1.1\r\nHost: t\r\nTransfer-Encoding: chunked\r\n\r\n"
	for name, tt := range map[string]struct {
		chunks    string
		times     int           // how often chunks are sent
		pause     time.Duration // after each time
		end       string        // is sent after the chunks
		served    bool
		staysOpen bool
	}{
		"the largest":       {"1000\r\n" + strings.Repeat("x", 0x1000) + "\r\n", 16, 0, "0\r\n\r\n", true, true},
		"one byte larger":   {"1000\r\n" + strings.Repeat("x", 0x1000) + "\r\n", 16, 0, "1\r\nx\r\n0\r\n\r\n", true, false},
		"endless":           {"1000\r\n" + strings.Repeat("x", 0x1000) + "\r\n", 1000, 0, "", true, false},
		"one endless chunk": {"7fffffffffffffff\r\n", 1, 0, strings.Repeat("x", 100_000), true, false},
		"slow":              {"1\r\nx\r\n", 100, time.Second, "0\r\n\r\n", false, false},
		"a slow trailer":    {"0\r\n", 1, time.Minute, "\r\n", false, false},
		"slow, but in time": {"1\r\nx\r\n", 9, time.Second, "0\r\n\r\n", true, true},
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(t *testing.T) {
				s := &server.Server{Tracker: &tracker.Tracker{}}
				defer shutdown(s)
				c := pipe(s)
				defer c.Close()
				sent := make(chan struct{})
				go func() {
					defer close(sent)
					_, err := io.WriteString(c, head)
					for i := 0; i < tt.times && err == nil; i++ {
						_, err = io.WriteString(c, tt.chunks)
						time.Sleep(tt.pause)
					}
					if err == nil {
						_, _ = io.WriteString(c, tt.end)
					}
				}()
				began := time.Now()
				r := bufio.NewReader(c)
				resp, err := http.ReadResponse(r, nil)
				if served := err == nil && resp.StatusCode == 200; served != tt.served {
					t.Errorf("served: %v, %v", served, err)
				}
				if took := time.Since(began); took > server.DefaultTimeout {
					t.Errorf("it took %v", took)
				}
				if err == nil && resp.Close == tt.staysOpen {
					t.Errorf("the server closes the connection: %v", resp.Close)
				}
				if tt.staysOpen {
					_, _ = io.Copy(io.Discard, resp.Body)
					<-sent
					get(t, c, r, "/ntrk/k?port=0")
				}
				_ = c.Close()
				<-sent
			})
		})
	}
}

// A connection on which a client sends only empty lines is idle.
func TestEmptyLines(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		s := &server.Server{Tracker: &tracker.Tracker{}}
		defer shutdown(s)
		c := pipe(s)
		defer c.Close()
		r := bufio.NewReader(c)
		for range 3 {
			if _, err := io.WriteString(c, "\r\n\n\r\n"); err != nil {
				t.Fatal(err)
			}
			get(t, c, r, "/ntrk/k?port=1")
		}
		began, sent := time.Now(), make(chan struct{})
		go func() {
			defer close(sent)
			for range 1000 {
				if _, err := io.WriteString(c, "\r\n"); err != nil {
					return
				}
				time.Sleep(time.Second)
			}
		}()
		if _, err := r.ReadByte(); err == nil || time.Since(began) > server.DefaultIdle*9/8+time.Second {
			t.Errorf("after %v: %v", time.Since(began), err)
		}
		<-sent
	})
}
