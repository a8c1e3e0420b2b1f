package server_test

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"ntrack/tracker"
	"ntrack/tracker/server"
)

// binary returns a PROXY header of version 2. rest is what comes after the length.
func binary(command, family byte, rest string) string {
	return "\r\n\r\n\x00\r\nQUIT\n" + string([]byte{command, family, byte(len(rest) >> 8), byte(len(rest))}) + rest
}

const (
	v4Addrs = "\xc0\x00\x02\x09" + "\x0a\x00\x00\x01" + "\x10\xe1" + "\x1b\x39" // 192.0.2.9:4321 to 10.0.0.1:6969
	v6Addrs = "\x20\x01\x0d\xb8" + "\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00" + "\x00\x09" + "\x20\x01\x0d\xb8\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x01" + "\x10\xe1" + "\x1b\x39"
)

// proxyHeaders are headers, and the client that each names. A header without a client is of the
// proxy itself.
var proxyHeaders = []struct{ name, header, client string }{
	{"line, IPv4", "PROXY TCP4 192.0.2.9 10.0.0.1 4321 6969\r\n", "192.0.2.9:4321"},
	{"line, IPv6", "PROXY TCP6 2001:db8::9 2001:db8::1 4321 6969\r\n", "[2001:db8::9]:4321"},
	{"line, IPv4 in IPv6", "PROXY TCP6 ::ffff:192.0.2.9 ::ffff:10.0.0.1 4321 6969\r\n", "192.0.2.9:4321"},
	{"line, unknown", "PROXY UNKNOWN\r\n", ""},
	{"line, unknown and long", "PROXY UNKNOWN " + strings.Repeat("f", 91) + "\r\n", ""},
	{"binary, IPv4", binary(0x21, 0x11, v4Addrs), "192.0.2.9:4321"},
	{"binary, IPv6", binary(0x21, 0x21, v6Addrs), "[2001:db8::9]:4321"},
	{"binary, with an extension", binary(0x21, 0x11, v4Addrs+"\x04\x00\x01x"), "192.0.2.9:4321"},
	{"binary, as long as allowed", binary(0x21, 0x11, v4Addrs+"\x04\x0f\xf1"+strings.Repeat("x", 4096-15)), "192.0.2.9:4321"},
	{"binary, local", binary(0x20, 0x00, ""), ""},
	{"binary, local with addresses", binary(0x20, 0x11, v4Addrs), ""},
	{"binary, unspecified", binary(0x21, 0x00, ""), ""},
	{"binary, Unix socket", binary(0x21, 0x31, strings.Repeat("\x00", 216)), ""},
}

// badProxyHeaders are the beginnings of connections that the server ends, and the reason in its log.
var badProxyHeaders = []struct{ name, header, reason string }{
	{"none", "GET /ntrk/k HTTP/1.1\r\nHost: t\r\n\r\n", "began without a header"},
	{"TLS", "\x16\x03\x01\x02\x00\x01\x00", "began without a header"},
	{"almost a line", "PROXX", "began without a header"},
	{"almost binary", "\r\n\r\nGET /", "began without a header"},
	{"line without an address", "PROXY TCP4\r\n", "malformed"},
	{"line with a name", "PROXY TCP4 host 10.0.0.1 4321 6969\r\n", "malformed"},
	{"line with a port that is none", "PROXY TCP4 192.0.2.9 10.0.0.1 65536 6969\r\n", "malformed"},
	{"line that ends in LF", "PROXY TCP4 192.0.2.9 10.0.0.1 4321 6969\n", "malformed"},
	{"line of the wrong family", "PROXY TCP4 2001:db8::9 2001:db8::1 4321 6969\r\n", "malformed"},
	{"line that is too long", "PROXY UNKNOWN " + strings.Repeat("f", 92) + "\r\n", "too long"},
	{"line of 0.0.0.0", "PROXY TCP4 0.0.0.0 10.0.0.1 4321 6969\r\n", "no client has"},
	{"line of a multicast address", "PROXY TCP6 ff02::1 2001:db8::1 4321 6969\r\n", "no client has"},
	{"binary of version 3", binary(0x31, 0x11, v4Addrs), "malformed"},
	{"binary of an unknown command", binary(0x22, 0x11, v4Addrs), "malformed"},
	{"binary that is too short for its family", binary(0x21, 0x21, v4Addrs), "malformed"},
	{"binary of UDP", binary(0x21, 0x12, v4Addrs), "not for TCP"},
	{"binary of 255.255.255.255", binary(0x21, 0x11, "\xff\xff\xff\xff"+v4Addrs[4:]), "no client has"},
	{"binary that is too long", binary(0x21, 0x11, v4Addrs+"\x04\x0f\xf2"+strings.Repeat("x", 4097-15)), "too long"},
}

// A proxyWay is a way for the connections of a proxy to come.
type proxyWay struct {
	name string
	// serve serves s, and returns how to connect to it. after is what makes the client's connection
	// of the raw one, when the header is sent: it adds TLS.
	serve func(t *testing.T, s *server.Server) (dial func() net.Conn, after func(net.Conn) net.Conn)
}

func proxyWays() []proxyWay {
	plain := func(c net.Conn) net.Conn { return c }
	tcp := func(serve serveFunc) func(*testing.T, *server.Server) (func() net.Conn, func(net.Conn) net.Conn) {
		return func(t *testing.T, s *server.Server) (func() net.Conn, func(net.Conn) net.Conn) {
			addr := serve(t, s)
			return func() net.Conn { return dial(t, addr) }, plain
		}
	}
	return []proxyWay{
		{"worker", tcp(serve)},
		{"goroutine", tcp(serveGoroutines)},
		{"TLS", func(t *testing.T, s *server.Server) (func() net.Conn, func(net.Conn) net.Conn) {
			std := httptest.NewTLSServer(nil) // for its certificate
			t.Cleanup(std.Close)
			l := listen(t)
			go s.ServeTLS(l, &tls.Config{Certificates: std.TLS.Certificates})
			t.Cleanup(func() { _ = shutdown(s) })
			secure := std.Client().Transport.(*http.Transport).TLSClientConfig.Clone()
			secure.ServerName = "example.com"
			return func() net.Conn { return dial(t, l.Addr().String()) }, func(c net.Conn) net.Conn { return tls.Client(c, secure) }
		}},
		{"Unix socket", func(t *testing.T, s *server.Server) (func() net.Conn, func(net.Conn) net.Conn) {
			path := filepath.Join(t.TempDir(), "s")
			l, err := net.Listen("unix", path)
			if err != nil {
				t.Fatal(err)
			}
			serveOn(t, s, l)
			return func() net.Conn {
				c, err := net.Dial("unix", path)
				if err != nil {
					t.Fatal(err)
				}
				t.Cleanup(func() { _ = c.Close() })
				_ = c.SetDeadline(time.Now().Add(patience))
				return c
			}, plain
		}},
	}
}

func behindProxy(log func(string)) *server.Server {
	tr := &tracker.Tracker{Proxies: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}}
	return &server.Server{Tracker: tr, ProxyProtocol: true, Log: server.LogTo(log)}
}

// getReply sends a GET request, and returns the status and the body of the reply.
func getReply(t *testing.T, c net.Conn, r *bufio.Reader, target, fields string) (int, string) {
	t.Helper()
	if _, err := fmt.Fprintf(c, "GET %s HTTP/1.1\r\nHost: t\r\n%s\r\n", target, fields); err != nil {
		t.Fatal(err)
	}
	return readReply(t, r)
}

func readReply(t *testing.T, r *bufio.Reader) (int, string) {
	t.Helper()
	resp, err := http.ReadResponse(r, nil)
	if err != nil {
		t.Fatal(err)
	}
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(b)
}

// A PROXY header says from where a client announces: its address and its port. It counts for all
// requests of the connection. The proxy itself only looks.
func TestProxyHeader(t *testing.T) {
	for _, way := range proxyWays() {
		t.Run(way.name, func(t *testing.T) {
			for _, tt := range proxyHeaders {
				t.Run(tt.name, func(t *testing.T) {
					s := behindProxy(func(line string) { t.Error(line) })
					dial, after := way.serve(t, s)
					raw := dial()
					if _, err := io.WriteString(raw, tt.header); err != nil {
						t.Fatal(err)
					}
					c := after(raw)
					r := bufio.NewReader(c)
					// A client at an address of its own cannot be forwarded by X-Forwarded-For.
					const forged = "X-Forwarded-For: 198.51.100.1\r\n"
					for _, method := range []string{"GET", "POST"} { // a worker hands over a POST
						if _, err := fmt.Fprintf(c, "%s /ntrk/k?format=json HTTP/1.1\r\nHost: t\r\n%s\r\n", method, forged); err != nil {
							t.Fatal(err)
						}
						status, body := readReply(t, r)
						switch {
						case tt.client == "" && method == "GET":
							if status != 200 || !strings.Contains(body, `"you":null`) || list(t, s.Tracker, "k") != "" {
								t.Errorf("%s: %d %s; listed %q", method, status, body, list(t, s.Tracker, "k"))
							}
						case tt.client == "" && (status != 400 || !strings.Contains(body, "proxy sent this request for itself")):
							t.Errorf("%s: %d %s, want a refusal", method, status, body)
						case tt.client != "" && (status != 200 || !strings.Contains(body, `"you":"`+tt.client+`"`)):
							t.Errorf("%s: %d %s, want you to be %s", method, status, body, tt.client)
						}
						if status, body := getReply(t, c, r, "/ntrk/k?port=0&format=json", forged); status != 200 {
							t.Errorf("look: %d %s", status, body)
						}
					}
					raw.Close()
					eventually(t, "the connection is not counted", func() bool { return s.Conns() == 0 })
				})
			}
		})
	}
}

// The client of a PROXY header may itself be a trusted proxy. Then X-Forwarded-For counts.
func TestProxyChain(t *testing.T) {
	for _, way := range proxyWays() {
		t.Run(way.name, func(t *testing.T) {
			s := behindProxy(func(line string) { t.Error(line) })
			dial, after := way.serve(t, s)
			raw := dial()
			_, _ = io.WriteString(raw, "PROXY TCP4 127.0.0.5 127.0.0.1 4321 6969\r\n")
			c := after(raw)
			status, body := getReply(t, c, bufio.NewReader(c), "/ntrk/k?port=7&format=json", "X-Forwarded-For: 198.51.100.1, 192.0.2.9\r\n")
			if status != 200 || !strings.Contains(body, `"you":"192.0.2.9:7"`) {
				t.Errorf("%d %s", status, body)
			}
		})
	}
}

// A connection of a proxy without a header ends, without a reply. The log says so once a minute.
func TestBadProxyHeader(t *testing.T) {
	for _, way := range proxyWays() {
		t.Run(way.name, func(t *testing.T) {
			for _, tt := range badProxyHeaders {
				t.Run(tt.name, func(t *testing.T) {
					log := make(chan string, 9)
					s := behindProxy(func(line string) { log <- line })
					dial, _ := way.serve(t, s)
					for range 2 {
						c := dial()
						if _, err := io.WriteString(c, tt.header); err != nil {
							t.Fatal(err)
						}
						if b, err := io.ReadAll(c); len(b) > 0 || errors.Is(err, os.ErrDeadlineExceeded) {
							t.Errorf("got %q, %v", b, err)
						}
					}
					if line := await(t, "a line of the log", log); !strings.Contains(line, tt.reason) || !strings.Contains(line, "WARN") || strings.Contains(line, "127.0.0.1") {
						t.Errorf("logged %s", line)
					}
					eventually(t, "the connection is not counted", func() bool { return s.Conns() == 0 })
					if len(log) > 0 {
						t.Errorf("also logged %s", <-log)
					}
				})
			}
		})
	}
}

// A client that closes the connection within its header, or before it, is not waited for. If it has
// sent nothing, it may be a health check, and nothing is logged.
func TestCutProxyHeader(t *testing.T) {
	for _, way := range proxyWays() {
		t.Run(way.name, func(t *testing.T) {
			for header, want := range map[string]string{"": "", "PROXY TCP4 192": "ended within its header", "\r\n\r\n\x00\r\nQUIT\n\x21": "ended within its header"} {
				var log string
				logged := make(chan struct{})
				s := behindProxy(func(line string) { log = line; close(logged) })
				dial, _ := way.serve(t, s)
				c := dial()
				if _, err := io.WriteString(c, header); err != nil {
					t.Fatal(err)
				}
				_ = c.(interface{ CloseWrite() error }).CloseWrite()
				if b, err := io.ReadAll(c); len(b) > 0 || err != nil {
					t.Errorf("%q: got %q, %v", header, b, err)
				}
				if want != "" {
					await(t, "a line of the log", logged)
				}
				eventually(t, "the connection is not counted", func() bool { return s.Conns() == 0 })
				if !strings.Contains(log, want) || want == "" && log != "" {
					t.Errorf("%q: logged %q", header, log)
				}
			}
		})
	}
}

// A header from anybody but a trusted proxy is a bad request, and so is one without ProxyProtocol.
func TestForeignProxyHeader(t *testing.T) {
	for name, s := range map[string]*server.Server{
		"not a proxy":  {ProxyProtocol: true, Tracker: &tracker.Tracker{Proxies: []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24")}}},
		"not expected": {Tracker: &tracker.Tracker{Proxies: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}}},
	} {
		t.Run(name, func(t *testing.T) {
			addr := serve(t, s)
			for _, header := range []string{"PROXY TCP4 192.0.2.9 10.0.0.1 4321 6969\r\n", binary(0x21, 0x11, v4Addrs)} {
				c := dial(t, addr)
				if _, err := io.WriteString(c, header); err != nil {
					t.Fatal(err)
				}
				if status, body := getReply(t, c, bufio.NewReader(c), "/ntrk/k?port=7", ""); status != 400 {
					t.Errorf("%q: %d %s", header, status, body)
				}
			}
			c := dial(t, addr)
			get(t, c, bufio.NewReader(c), "/ntrk/k?port=7")
		})
	}
}

// An event stream goes on behind a PROXY header, and its peer leaves with the connection.
func TestProxyStream(t *testing.T) {
	for _, way := range proxyWays() {
		t.Run(way.name, func(t *testing.T) {
			s := behindProxy(func(line string) { t.Error(line) })
			dial, after := way.serve(t, s)
			raw := dial()
			_, _ = io.WriteString(raw, binary(0x21, 0x11, v4Addrs))
			c := after(raw)
			r := openStream(t, c, "/ntrk/k?port=7")
			join(t, s.Tracker, "k", 8)
			expectEvent(t, r, "join 192.0.2.7:8;")
			if got := list(t, s.Tracker, "k"); !strings.Contains(got, "192.0.2.9:7") {
				t.Errorf("listed %s", got)
			}
			raw.Close()
			eventually(t, "the peer leaves", func() bool { return !strings.Contains(list(t, s.Tracker, "k"), "192.0.2.9:7") })
		})
	}
}

// The header and the first request have to come within Timeout, however slowly their bytes come.
func TestLateProxyHeader(t *testing.T) {
	for name, header := range map[string]string{"nothing": "", "a part": "PROXY TCP4 192", "no request": "PROXY UNKNOWN\r\n", "byte by byte": "PROXY TCP4 192.0.2.9"} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(t *testing.T) {
				var log []string
				s := behindProxy(func(line string) { log = append(log, line) })
				defer shutdown(s)
				l := newArrivals(s)
				began := time.Now()
				c := l.from(&net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 1})
				defer c.Close()
				go func() {
					for i := range header {
						if _, err := io.WriteString(c, header[i:i+1]); err != nil {
							return
						}
						if name == "byte by byte" {
							time.Sleep(time.Second)
						}
					}
				}()
				b, _ := io.ReadAll(c)
				if d := time.Since(began); len(b) > 0 || d != server.DefaultTimeout {
					t.Errorf("got %q after %v", b, d)
				}
				synctest.Wait()
				late := name != "no request"
				if late != (len(log) == 1 && strings.Contains(log[0], "did not come in time")) || !late && len(log) > 0 {
					t.Errorf("logged %q", log)
				}
				time.Sleep(15 * time.Second)
			})
		})
	}
}

// A connection that begins when the server shuts down has little time for its first request, and for
// the PROXY header before it.
func TestShutdownNewConn(t *testing.T) {
	for _, header := range []bool{false, true} {
		inBubble(t, func(t *testing.T) {
			s := &server.Server{Tracker: &tracker.Tracker{}}
			if header {
				s = behindProxy(func(line string) { t.Error(line) })
			}
			l := newArrivals(s)
			clientEnd, serverEnd := net.Pipe()
			defer clientEnd.Close()
			began := time.Now()
			ended := make(chan error, 1)
			l.conns <- startingConn{from{serverEnd, &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 1}}, sync.OnceFunc(func() {
				go func() { ended <- shutdown(s) }()
				time.Sleep(time.Nanosecond) // until the shutdown waits for this connection
			})}
			_ = patient(clientEnd)
			if b, err := io.ReadAll(clientEnd); len(b) > 0 || err != nil || time.Since(began) > 2*time.Second {
				t.Errorf("PROXY header %v: got %q, %v after %v", header, b, err, time.Since(began))
			}
			if err := await(t, "the end of the shutdown", ended); err != nil {
				t.Error(err)
			}
		})
	}
}

// A startingConn calls starts when the server first sets its deadline.
type startingConn struct {
	from
	starts func()
}

func (c startingConn) SetDeadline(t time.Time) error {
	c.starts()
	return c.from.SetDeadline(t)
}

// A connection that waits for its header is silent: it makes room, with the reply that any silent
// connection gets, and it does not delay the end.
func TestProxyHeaderMakesRoom(t *testing.T) { bothWays(t, testProxyHeaderMakesRoom) }

func testProxyHeaderMakesRoom(t *testing.T, serve serveFunc) {
	for _, part := range []string{"", "PROXY TCP4 192", "PROXY UNKNOWN\r\n"} {
		log := make(chan string, 9)
		s := behindProxy(func(line string) { log <- line })
		s.MaxConns = 1
		addr := serve(t, s)
		silent := func() bool { return s.Silent() == 1 }
		old := dial(t, addr)
		_, _ = io.WriteString(old, part)
		eventually(t, "the connection is silent", silent)
		c := dial(t, addr)
		_, _ = io.WriteString(c, "PROXY TCP4 192.0.2.9 10.0.0.1 4321 6969\r\n")
		get(t, c, bufio.NewReader(c), "/ntrk/k?port=7")
		if b, err := io.ReadAll(old); err != nil || !strings.HasPrefix(string(b), "HTTP/1.1 503 ") {
			t.Errorf("%q: the old connection got %q, %v", part, b, err)
		}
		c.Close()
		eventually(t, "no connection is left", func() bool { return s.Conns() == 0 })
		_, _ = io.WriteString(dial(t, addr), part)
		eventually(t, "the connection is silent", silent)
		if err := shutdown(s); err != nil {
			t.Error(err)
		}
		for len(log) > 0 {
			if line := <-log; !strings.Contains(line, "took the place of an idle one") {
				t.Errorf("%q: logged %s", part, line)
			}
		}
	}
}

// However the bytes of a header come, the same is taken, or the same is wrong with it. What is taken
// has no more bytes than the specification allows.
func FuzzProxyHeader(f *testing.F) {
	for _, tt := range proxyHeaders {
		f.Add([]byte(tt.header + "GET / HTTP/1.1\r\n\r\n"))
	}
	for _, tt := range badProxyHeaders {
		f.Add([]byte(tt.header))
	}
	f.Fuzz(func(t *testing.T, in []byte) {
		rest, client, complete, err := server.TakeProxyHeader(in)
		if complete && (err != nil || len(in)-len(rest) < 15 || !bytes.HasSuffix(in, rest) || len(in)-len(rest) > 16+4096) {
			t.Errorf("%d of %d bytes, %v", len(in)-len(rest), len(in), err)
		}
		if a := client.Addr(); a.IsUnspecified() || a.IsMulticast() || a.Zone() != "" || a.Is4In6() {
			t.Errorf("client %s", client)
		}
		for i := 1; i < len(in); i++ {
			r, c, early, e := server.TakeProxyHeader(in[:i])
			switch {
			case e == nil && !early:
			case e != err, c != client, !bytes.Equal(r, rest[:len(rest)-len(in)+i]):
				t.Errorf("%d bytes: %q, %s, %v; all: %q, %s, %v", i, r, c, e, rest, client, err)
			}
		}
	})
}

func BenchmarkProxyHeader(b *testing.B) {
	for _, tt := range proxyHeaders {
		b.Run(tt.name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if _, _, _, err := server.TakeProxyHeader([]byte(tt.header)); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// logBesidesProxy fails a test for any line of the log but the warning about a proxy that is not named.
// It is for tests that send X-Forwarded-For, or announce many keys, from this machine.
func logBesidesProxy(t *testing.T) func(string) {
	return func(line string) {
		if !strings.Contains(line, "add it to the trusted proxies") {
			t.Error(line)
		}
	}
}

// The log says once that a proxy is not named, and its address only for debugging.
func TestUnnamedProxyLog(t *testing.T) {
	log := make(chan string, 9)
	s := &server.Server{Tracker: &tracker.Tracker{}, Log: server.LogTo(func(line string) { log <- line })}
	addr := serve(t, s)
	for range 3 {
		c := dial(t, addr)
		if status, body := getReply(t, c, bufio.NewReader(c), "/ntrk/k?port=7", "X-Forwarded-For: 192.0.2.1\r\n"); status != 200 {
			t.Errorf("%d %s", status, body)
		}
	}
	if len(log) != 1 {
		t.Fatalf("%d lines", len(log))
	}
	if line := <-log; !strings.Contains(line, "add it to the trusted proxies") || strings.Contains(line, "127.0.0.1") {
		t.Errorf("logged %s", line)
	}
}
