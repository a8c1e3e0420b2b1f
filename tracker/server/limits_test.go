package server_test

import (
	"bufio"
	"crypto/tls"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"ntrack/tracker"
	"ntrack/tracker/server"
)

// arrivals is a listener in memory for a synctest bubble. Its connections may come from any
// address.
type arrivals struct {
	conns chan net.Conn
	once  sync.Once
	done  chan struct{}
}

func newArrivals(s *server.Server) *arrivals {
	l := &arrivals{conns: make(chan net.Conn), done: make(chan struct{})}
	go s.Serve(l)
	return l
}

// from connects from an address, and returns the client's end of the connection.
func (l *arrivals) from(remote net.Addr) net.Conn {
	clientEnd, serverEnd := net.Pipe()
	l.conns <- from{serverEnd, remote}
	return patient(clientEnd)
}

type from struct {
	net.Conn
	remote net.Addr
}

func (c from) RemoteAddr() net.Addr { return c.remote }

func (l *arrivals) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.done:
		return nil, net.ErrClosed
	}
}

func (l *arrivals) Close() error {
	l.once.Do(func() { close(l.done) })
	return nil
}

func (l *arrivals) Addr() net.Addr { return &net.TCPAddr{} }

// The connections of one address are limited, and do not delay those of others. An address that may
// have many clients behind it has no limit.
func TestMaxConnsPerAddr(t *testing.T) {
	tcp := func(a string) net.Addr { return net.TCPAddrFromAddrPort(netip.MustParseAddrPort(a)) }
	unix := &net.UnixAddr{Net: "unix"}
	for _, tt := range []struct {
		name       string
		maxPerAddr int
		addrs      []net.Addr
		fit        int // how many of addrs are admitted; the others follow them
	}{
		{"one address", 2, []net.Addr{tcp("192.0.2.1:1"), tcp("192.0.2.1:2"), tcp("192.0.2.1:3")}, 2},
		{"two", 2, []net.Addr{tcp("192.0.2.1:1"), tcp("192.0.2.1:2"), tcp("192.0.2.2:3"), tcp("192.0.2.2:4")}, 4},
		{"mapped into IPv6", 2, []net.Addr{tcp("192.0.2.1:1"), tcp("[::ffff:192.0.2.1]:2"), tcp("192.0.2.1:3")}, 2},
		{"one /64", 2, []net.Addr{tcp("[2001:db8::1]:1"), tcp("[2001:db8::2]:2"), tcp("[2001:db8::ffff:0:0:3]:3")}, 2},
		{"two /64", 2, []net.Addr{tcp("[2001:db8::1]:1"), tcp("[2001:db8::2]:2"), tcp("[2001:db8:0:1::3]:3")}, 3},
		{"a zone", 2, []net.Addr{tcp("[fe80::1%a]:1"), tcp("[fe80::2%b]:2"), tcp("[fe80::3]:3")}, 2},
		{"not exempt", 2, []net.Addr{tcp("127.0.0.1:1"), tcp("127.0.0.1:2"), tcp("[::1]:1"), tcp("[::ffff:127.0.0.1]:3")}, 3},
		{"loopback", 1, []net.Addr{tcp("127.0.0.1:1"), tcp("127.0.0.1:2"), tcp("[::1]:1"), tcp("[::1]:2"), tcp("[::ffff:127.0.0.1]:1")}, 5},
		{"a proxy", 1, []net.Addr{tcp("198.51.100.1:1"), tcp("198.51.100.1:2"), tcp("[::ffff:198.51.100.1]:3"), tcp("203.0.113.1:1"), tcp("203.0.113.1:2")}, 5},
		{"a Unix socket", 1, []net.Addr{unix, unix, unix}, 3},
		{"no limit", -1, []net.Addr{tcp("192.0.2.1:1"), tcp("192.0.2.1:2"), tcp("192.0.2.1:3")}, 3},
		{"a quarter of 9", 0, []net.Addr{tcp("192.0.2.1:1"), tcp("192.0.2.1:2"), tcp("192.0.2.1:3")}, 2},
	} {
		t.Run(tt.name, func(t *testing.T) {
			inBubble(t, func(t *testing.T) {
				tr := &tracker.Tracker{Proxies: []netip.Prefix{netip.MustParsePrefix("198.51.100.0/24"), netip.MustParsePrefix("::ffff:203.0.113.0/120")}}
				if tt.name == "not exempt" {
					tr.Exempt = []netip.Prefix{netip.MustParsePrefix("2001:db8::/32")}
				}
				var log []string
				s := &server.Server{Tracker: tr, MaxConns: 9, MaxConnsPerAddr: tt.maxPerAddr, Log: server.LogTo(func(line string) { log = append(log, line) })}
				defer shutdown(s)
				l := newArrivals(s)
				conns := make([]net.Conn, len(tt.addrs))
				for round := range 2 { // in the second round all connections of the first are closed
					for i, a := range tt.addrs {
						conns[i] = l.from(a)
						defer conns[i].Close()
						if i >= tt.fit {
							b, err := io.ReadAll(conns[i])
							if err != nil || !strings.HasPrefix(string(b), "HTTP/1.1 503 ") {
								t.Errorf("round %d: %s got %q, %v", round, a, b, err)
							}
							continue
						}
						if _, err := io.WriteString(conns[i], "OPTIONS * HTTP/1.1\r\nHost: t\r\n\r\n"); err != nil {
							t.Fatal(err)
						}
						if line, err := bufio.NewReader(conns[i]).ReadString('\n'); err != nil || line != "HTTP/1.1 204 No Content\r\n" {
							t.Errorf("round %d: %s got %q, %v", round, a, line, err)
						}
					}
					for _, c := range conns {
						c.Close()
					}
					synctest.Wait()
				}
				if refused := tt.fit < len(tt.addrs); len(log) > 1 || refused != (len(log) == 1) {
					t.Errorf("logged %q", log)
				}
			})
		})
	}
}

// A limit that is exceeded all the time is logged once a minute.
func TestRefusedLog(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		lines := 0
		s := &server.Server{Tracker: &tracker.Tracker{}, MaxConnsPerAddr: 1, Timeout: time.Hour, Log: server.LogTo(func(string) { lines++ })}
		defer shutdown(s)
		l := newArrivals(s)
		at := &net.TCPAddr{IP: net.IPv4(192, 0, 2, 1), Port: 1}
		kept := l.from(at)
		defer kept.Close()
		for range 150 {
			c := l.from(at)
			_, _ = io.WriteString(c, "GET / HTTP/1.1\r\n\r\n")
			_, _ = io.Copy(io.Discard, c)
			c.Close()
			time.Sleep(time.Second)
		}
		if lines != 3 {
			t.Errorf("%d lines in 150 seconds", lines)
		}
	})
}

// A halfClosing connection can be closed for sending only, like TCP.
type halfClosing struct {
	from
	closed chan struct{}
}

func (c halfClosing) CloseWrite() error {
	close(c.closed)
	return nil
}

// After a refusal the server reads until the client closes the connection, but for at most half a
// second. Other connections do not wait for that.
func TestRefusedLingers(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		s := &server.Server{Tracker: &tracker.Tracker{}, MaxConnsPerAddr: 1, Timeout: time.Hour}
		defer shutdown(s)
		l := newArrivals(s)
		at := &net.TCPAddr{IP: net.IPv4(192, 0, 2, 1), Port: 1}
		kept := l.from(at)
		defer kept.Close()
		clientEnd, serverEnd := net.Pipe()
		defer clientEnd.Close()
		c := halfClosing{from{serverEnd, at}, make(chan struct{})}
		began := time.Now()
		l.conns <- c
		if _, err := io.WriteString(clientEnd, "GET / HTTP/1.1\r\n\r\n"); err != nil {
			t.Fatal(err)
		}
		r := bufio.NewReader(clientEnd)
		if resp, err := http.ReadResponse(r, nil); err != nil || resp.StatusCode != 503 || resp.ContentLength != 21 {
			t.Fatalf("%+v, %v", resp, err)
		}
		if _, err := r.Discard(21); err != nil {
			t.Fatal(err)
		}
		<-c.closed
		for { // a client that keeps sending
			if _, err := clientEnd.Write([]byte("G")); err != nil {
				break
			}
			time.Sleep(50 * time.Millisecond)
		}
		if d := time.Since(began); d < 500*time.Millisecond || d > 600*time.Millisecond {
			t.Errorf("read for %v, want half a second", d)
		}
		other := l.from(&net.TCPAddr{IP: net.IPv4(192, 0, 2, 2), Port: 1})
		defer other.Close()
		get(t, other, bufio.NewReader(other), "/ntrk/k?port=1")
	})
}

// A refusal waits for the first bytes of the request, but at most for a second. A client that gets a
// reply before it has sent a request may drop the connection, and report that it was cut.
func TestRefusalAwaitsRequest(t *testing.T) {
	for _, tt := range []struct {
		name  string
		after time.Duration // until the client sends
		send  string
		want  time.Duration // until the reply
	}{
		{"at once", 0, "GET /ntrk/k HTTP/1.1\r\nHost: t\r\n\r\n", 0},
		{"late", 900 * time.Millisecond, "GET /ntrk/k HTTP/1.1\r\nHost: t\r\n\r\n", 900 * time.Millisecond},
		{"a part", 500 * time.Millisecond, "G", 500 * time.Millisecond},
		{"never", time.Hour, "", time.Second},
	} {
		t.Run(tt.name, func(t *testing.T) {
			inBubble(t, func(t *testing.T) {
				s := &server.Server{Tracker: &tracker.Tracker{}, MaxConnsPerAddr: 1, Timeout: 2 * time.Hour}
				defer shutdown(s)
				l := newArrivals(s)
				at := &net.TCPAddr{IP: net.IPv4(192, 0, 2, 1), Port: 1}
				kept, c := l.from(at), l.from(at)
				defer kept.Close()
				defer c.Close()
				began := time.Now()
				go func() {
					time.Sleep(tt.after)
					_, _ = io.WriteString(c, tt.send)
				}()
				b, err := io.ReadAll(c)
				if !strings.HasPrefix(string(b), "HTTP/1.1 503 ") || err != nil {
					t.Errorf("got %q, %v", b, err)
				}
				if d := time.Since(began); d != tt.want {
					t.Errorf("refused after %v, want %v", d, tt.want)
				}
				time.Sleep(tt.after)
			})
		})
	}
}

// Only a few connections at a time are refused in the way that waits for the client, because each of
// these takes memory and a descriptor. The others get their 503 at once. MaxMemory bounds the few.
func TestRefusedAreBounded(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		s := &server.Server{Tracker: &tracker.Tracker{}, MaxConnsPerAddr: 1, MaxMemory: 1 << 20, Timeout: time.Hour}
		defer shutdown(s)
		l := newArrivals(s)
		at := &net.TCPAddr{IP: net.IPv4(192, 0, 2, 1), Port: 1}
		var conns []net.Conn
		for range 1 + 4 { // a connection, and an eighth of MaxMemory with those that are refused
			c := l.from(at)
			defer c.Close()
			conns = append(conns, c)
		}
		for range 10 {
			c, began := l.from(at), time.Now()
			b, err := io.ReadAll(c)
			if d := time.Since(began); err != nil || !strings.HasPrefix(string(b), "HTTP/1.1 503 ") || d > 0 {
				t.Errorf("got %q, %v after %v", b, err, d)
			}
			if st := s.Stats(); st.Refused != 4 || st.Silent != 1 {
				t.Errorf("%+v", st)
			}
			c.Close()
		}
		for _, c := range conns[1:] {
			b, err := io.ReadAll(c)
			if err != nil || !strings.HasPrefix(string(b), "HTTP/1.1 503 ") {
				t.Errorf("got %q, %v", b, err)
			}
			c.Close()
		}
		synctest.Wait()
		if st := s.Stats(); st.Refused != 0 || st.RefusedPerAddr != 14 {
			t.Errorf("at the end: %+v", st)
		}
	})
}

// A refusal does not wait for a client that is gone.
func TestRefusedIsGone(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		s := &server.Server{Tracker: &tracker.Tracker{}, MaxConnsPerAddr: 1, Timeout: time.Hour}
		defer shutdown(s)
		l := newArrivals(s)
		at := &net.TCPAddr{IP: net.IPv4(192, 0, 2, 1), Port: 1}
		kept, c := l.from(at), l.from(at)
		defer kept.Close()
		synctest.Wait()
		if n := s.Conns(); n != 2 {
			t.Errorf("%d connections before the client has closed its own", n)
		}
		c.Close()
		synctest.Wait()
		if n := s.Conns(); n != 1 {
			t.Errorf("%d connections after the client has closed its own", n)
		}
	})
}

// A TLS client that is refused and sends nothing does not delay the clients after it.
func TestMaxConnsTLS(t *testing.T) {
	std := httptest.NewTLSServer(nil) // for its certificate
	defer std.Close()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &server.Server{Tracker: &tracker.Tracker{}, MaxConns: 1, Log: server.LogTo(func(line string) { t.Log(line) })}
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
	if resp, err := http.ReadResponse(r, nil); err != nil || resp.StatusCode != 204 { // the server has also read half a request, so the connection is not idle
		t.Fatalf("%+v, %v", resp, err)
	}
	silent := dial(t, l.Addr().String())
	if n, _ := silent.Read(make([]byte, 1)); n != 0 {
		t.Error("the refused connection got a reply")
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
