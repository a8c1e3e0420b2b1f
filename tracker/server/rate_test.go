package server_test

import (
	"bufio"
	"crypto/tls"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"testing"
	"time"

	"ntrack/tracker"
	"ntrack/tracker/server"
)

// The new connections of one address are limited, and do not delay those of others. A refused one
// gets the reason and a time to wait.
func TestRateOfConns(t *testing.T) {
	tcp := func(a string) net.Addr { return net.TCPAddrFromAddrPort(netip.MustParseAddrPort(a)) }
	for _, tt := range []struct {
		name  string
		addr  net.Addr
		other net.Addr // shares no limit with addr
		fit   int      // how many are admitted at once; -1 is no limit
	}{
		{"IPv4", tcp("192.0.2.1:1"), tcp("192.0.2.2:1"), 10_000},
		{"IPv6", tcp("[2001:db8::1]:1"), tcp("[2001:db8:0:1::1]:1"), 10_000},
		{"loopback", tcp("127.0.0.1:1"), nil, -1},
		{"a proxy", tcp("198.51.100.1:1"), nil, -1},
		{"a Unix socket", &net.UnixAddr{Net: "unix"}, nil, -1},
	} {
		t.Run(tt.name, func(t *testing.T) {
			inBubble(t, func(t *testing.T) {
				tr := &tracker.Tracker{Proxies: []netip.Prefix{netip.MustParsePrefix("198.51.100.0/24")}}
				var log []string
				s := &server.Server{Tracker: tr, MaxConnsPerAddr: -1, Log: server.LogTo(func(line string) { log = append(log, line) })}
				defer shutdown(s)
				l := newArrivals(s)
				open := func(from net.Addr) string {
					c := l.from(from)
					defer c.Close()
					_, _ = io.WriteString(c, "OPTIONS * HTTP/1.0\r\n\r\n")
					b, _ := io.ReadAll(c)
					return string(b)
				}
				n := 0
				for ; n < 10_500 && strings.HasPrefix(open(tt.addr), "HTTP/1.1 204 "); n++ {
				}
				st := s.Stats()
				if tt.fit < 0 {
					if n < 10_500 || st.RefusedRate != 0 {
						t.Errorf("connection %d is refused", n)
					}
					return
				}
				if n != tt.fit || st.RefusedRate != 1 || st.RefusedConns+st.RefusedPerAddr != 0 {
					t.Errorf("%d connections, want %d; %+v", n, tt.fit, st)
				}
				got := open(tt.addr)
				resp, err := http.ReadResponse(bufio.NewReader(strings.NewReader(got)), nil)
				if err != nil || resp.StatusCode != 503 || resp.Header.Get("Retry-After") != "10" {
					t.Fatalf("got %q, %v", got, err)
				}
				body, _ := io.ReadAll(resp.Body)
				if string(body) != "too many new connections from this address: wait 10 s\n" || !strings.HasSuffix(got, "\r\n\r\n"+string(body)) {
					t.Errorf("got %q", got)
				}
				if len(log) != 1 || !strings.Contains(log[0], "a connection was refused: its address opens more than 1000 a second") {
					t.Errorf("logged %q", log)
				}
				if got := open(tt.other); !strings.HasPrefix(got, "HTTP/1.1 204 ") {
					t.Errorf("another address got %q", got)
				}
				time.Sleep(10 * time.Second)
				if got := open(tt.addr); !strings.HasPrefix(got, "HTTP/1.1 204 ") {
					t.Errorf("after the wait it got %q", got)
				}
			})
		})
	}
}

// A connection over TLS counts as ten. One that is refused ends before the handshake.
func TestRateOfConnsOverTLS(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		s := &server.Server{Tracker: &tracker.Tracker{}, MaxConnsPerAddr: -1}
		defer shutdown(s)
		l := &arrivals{conns: make(chan net.Conn), done: make(chan struct{})}
		go s.ServeTLS(l, &tls.Config{})
		at := &net.TCPAddr{IP: net.IPv4(192, 0, 2, 1), Port: 1}
		for range 1000 {
			defer l.from(at).Close()
		}
		c := l.from(at)
		defer c.Close()
		if b, err := io.ReadAll(c); err != nil || len(b) > 0 {
			t.Errorf("got %q, %v", b, err)
		}
		if st := s.Stats(); st.Accepted != 1000 || st.RefusedRate != 1 {
			t.Errorf("%d are accepted and %d refused, want 1000 and 1", st.Accepted, st.RefusedRate)
		}
	})
}

// A Server that serves both ways limits the real connections of an address, too.
func TestRateOfRealConns(t *testing.T) {
	bothWays(t, func(t *testing.T, serve serveFunc) {
		s := &server.Server{Tracker: &tracker.Tracker{Exempt: []netip.Prefix{}}, Log: server.LogTo(func(line string) { t.Log(line) })}
		s.SetConnRate(1, 100)
		at := serve(t, s)
		served := 0
		for range 300 { // takes less than the 200 seconds in which 200 more would be admitted
			c := dial(t, at)
			_, _ = io.WriteString(c, "OPTIONS * HTTP/1.0\r\n\r\n")
			b, _ := io.ReadAll(c)
			switch {
			case strings.HasPrefix(string(b), "HTTP/1.1 204 "):
				served++
			case !strings.HasSuffix(string(b), "too many new connections from this address: wait 10 s\n"):
				t.Fatalf("got %q", b)
			}
			c.Close()
		}
		if refused := s.Stats().RefusedRate; served < 100 || refused == 0 || served+int(refused) != 300 {
			t.Errorf("%d are served and %d refused", served, refused)
		}
	})
}
