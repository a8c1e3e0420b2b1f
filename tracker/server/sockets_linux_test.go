package server_test

import (
	"bufio"
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"math/big"
	mathrand "math/rand/v2"
	"net"
	"net/http"
	"os"
	"regexp"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"ntrack/tracker"
	"ntrack/tracker/server"
)

// headers that make the bytes after them come from a client of a proxy.
const (
	oneProxyLine = "PROXY TCP4 192.0.2.9 10.0.0.1 4321 6969\r\n"
	aStream      = "GET /ntrk/k?port=7 HTTP/1.1\r\nHost: t\r\nAccept: text/event-stream\r\n\r\n"
)

// Over real sockets, a worker, a goroutine and a goroutine with TLS send the same replies to the same
// bytes, wherever these are split. Afterwards each server still serves, and nothing is left: no
// connection, no goroutine and no open file.
func FuzzSockets(f *testing.F) {
	secure := &tls.Config{Certificates: []tls.Certificate{newCertificate(f)}}
	for i, in := range corpus {
		f.Add([]byte(in), uint16(i), uint16(3*i), i%2 == 0, false, i%4 == 0)
	}
	for i, in := range vectorRequests(f) {
		if len(in) < 1000 && i%4 == 0 { // FuzzHead has the others
			f.Add(in, uint16(i), uint16(3*i), i%3 == 0, false, i%5 == 0)
		}
	}
	for _, h := range proxyHeaders {
		f.Add([]byte(h.header+hello), uint16(5), uint16(20), false, true, true)
	}
	for _, h := range badProxyHeaders {
		f.Add([]byte(h.header), uint16(5), uint16(20), false, true, true)
	}
	f.Add([]byte(oneProxyLine+aStream), uint16(50), uint16(60), false, true, true)
	f.Add([]byte(hello+aStream), uint16(50), uint16(60), true, false, true)
	f.Add([]byte(strings.Repeat(hello, 40)), uint16(50), uint16(60), false, false, false)
	f.Add([]byte(oneProxyLine+"GET /ntrk/k HTTP/1.1\r\nHost: t\r\nX-Forwarded-For: 192.0.2.77\r\n\r\n"), uint16(41), uint16(60), false, true, true)

	f.Fuzz(func(t *testing.T, in []byte, first, second uint16, greets, proxied, overTLS bool) {
		if bytes.Contains(in, []byte("HEAD ")) || len(in) > 1<<16 { // readReplies cannot always separate the replies to HEAD
			return
		}
		s := &socketTest{in: in, greets: greets && !proxied, proxied: proxied, port: 1024 + mathrand.IntN(60_000)}
		s.from = net.IPv4(127, byte(1+mathrand.IntN(250)), byte(mathrand.IntN(250)), byte(1+mathrand.IntN(250)))
		i, j := int(first)%(len(in)+1), int(second)%(len(in)+1)
		s.parts = [][]byte{in[:min(i, j)], in[min(i, j):max(i, j)], in[max(i, j):]}
		goroutines, files := runtime.NumGoroutine(), openFiles(t)
		want, wantReset := s.play(t, func(l net.Listener) net.Listener { return notTCP{l} }, nil)
		got, reset := s.play(t, func(l net.Listener) net.Listener { return l }, nil)
		s.compare(t, "worker", got, reset, want, wantReset)
		if overTLS {
			got, reset = s.play(t, func(l net.Listener) net.Listener { return l }, secure)
			s.compare(t, "TLS", got, reset, want, wantReset)
		}
		for deadline := time.Now().Add(5 * time.Second); runtime.NumGoroutine() > goroutines; time.Sleep(time.Millisecond) {
			if time.Now().After(deadline) {
				stacks := make([]byte, 1<<16)
				t.Fatalf("%q: goroutines are left:\n%s", in, stacks[:runtime.Stack(stacks, true)])
			}
		}
		if now := openFiles(t); len(now) > len(files) {
			t.Errorf("%q: open files %q, before %q", in, now, files)
		}
	})
}

// newCertificate returns a certificate of 127.0.0.1.
func newCertificate(f *testing.F) tls.Certificate {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		f.Fatal(err)
	}
	template := x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(24 * time.Hour), IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}}
	der, err := x509.CreateCertificate(rand.Reader, &template, &template, key.Public(), key)
	if err != nil {
		f.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

// A socketTest is what a client sends, and from where.
type socketTest struct {
	in      []byte
	parts   [][]byte // of in
	greets  bool     // it sends hello first, and waits for the reply
	proxied bool     // the server expects a PROXY header
	from    net.IP
	port    int
}

// play sends the bytes to a new server, and returns the replies. reset says that the connection was
// reset, so that replies may be lost.
func (s *socketTest) play(t *testing.T, wrap func(net.Listener) net.Listener, secure *tls.Config) (replies []reply, reset bool) {
	t.Helper()
	srv := &server.Server{Tracker: &tracker.Tracker{Interval: time.Minute}, Log: server.LogTo(func(line string) {
		if strings.Contains(line, "panic") || !s.proxied && !strings.Contains(line, "add it to the trusted proxies") {
			t.Errorf("%q: logged %s", s.in, line)
		}
	})}
	if s.proxied {
		log := srv.Log
		srv = behindProxy(nil)
		srv.Tracker.Interval, srv.Log = time.Minute, log
	}
	l := listen(t)
	ended := make(chan error, 1)
	go func() {
		if secure != nil {
			ended <- srv.ServeTLS(wrap(l), secure)
		} else {
			ended <- srv.Serve(wrap(l))
		}
	}()
	replies, reset = s.send(t, l.Addr().String(), secure != nil)
	// The server still serves.
	var greeting []byte
	if s.proxied {
		greeting = []byte(oneProxyLine)
	}
	if again, _ := (&socketTest{in: []byte(hello), parts: [][]byte{greeting, []byte(hello)}, proxied: s.proxied}).send(t, l.Addr().String(), secure != nil); len(again) != 1 || again[0].status != 200 {
		t.Errorf("%q: afterwards the server sends %v", s.in, again)
	}
	for i := 0; i < 100 && srv.Conns() > 0; i++ {
		runtime.Gosched()
	}
	eventually(t, "no connection is left", func() bool { return srv.Conns() == 0 && srv.Tracker.Stats().Streams == 0 })
	if err := shutdown(srv); err != nil {
		t.Errorf("%q: %v", s.in, err)
	}
	if err := await(t, "Serve", ended); err != server.ErrClosed {
		t.Errorf("%q: Serve: %v", s.in, err)
	}
	return replies, reset
}

func (s *socketTest) send(t *testing.T, addr string, secure bool) (replies []reply, reset bool) {
	t.Helper()
	d := net.Dialer{Control: func(_, _ string, c syscall.RawConn) error {
		return c.Control(func(fd uintptr) { _ = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_REUSEADDR, 1) })
	}}
	if s.port != 0 {
		d.LocalAddr = &net.TCPAddr{IP: s.from, Port: s.port}
	}
	c, err := d.Dial("tcp", addr)
	if err != nil {
		return nil, true // another program has this port
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(patience))
	parts := s.parts
	if secure {
		if s.proxied { // the header comes before the handshake
			all := bytes.Join(parts, nil)
			rest, _, complete, err := server.TakeProxyHeader(all)
			n := len(all) - len(rest)
			if err != nil || !complete { // the connection ends without TLS
				_, _ = c.Write(all)
				_ = c.(*net.TCPConn).CloseWrite()
				if b, err := io.ReadAll(c); len(b) > 0 || errors.Is(err, os.ErrDeadlineExceeded) {
					t.Errorf("%q: got %q, %v", s.in, b, err)
				}
				return nil, false
			}
			_, _ = c.Write(all[:n/2])
			_, _ = c.Write(all[n/2 : n])
			parts = [][]byte{rest}
		}
		client := tls.Client(c, &tls.Config{InsecureSkipVerify: true})
		if err := client.Handshake(); err != nil { // also if the client then sends nothing
			t.Fatalf("%q: %v", s.in, err)
		}
		c = client
	}
	var out bytes.Buffer
	if s.greets {
		_, _ = io.WriteString(c, hello)
		if _, err := http.ReadResponse(bufio.NewReader(io.TeeReader(c, &out)), nil); err != nil {
			t.Fatalf("%q: %v", s.in, err)
		}
	}
	for _, part := range parts {
		if len(part) > 0 {
			_, _ = c.Write(part) // the server may have refused the part before
		}
	}
	_ = c.(interface{ CloseWrite() error }).CloseWrite()
	_, err = io.Copy(&out, c)
	if reset = errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE); err != nil && !reset {
		t.Errorf("%q: %v", s.in, err)
	}
	if reset {
		return nil, true
	}
	return readReplies(t, s.in, out.Bytes()), false
}

var epochLine = regexp.MustCompile(`(?m)^id: .*\n`)

// compare compares the replies of two servers. They have epochs of their own.
func (s *socketTest) compare(t *testing.T, name string, got []reply, gotReset bool, want []reply, wantReset bool) {
	t.Helper()
	if gotReset || wantReset {
		return
	}
	for _, list := range [][]reply{got, want} {
		for i := range list {
			list[i].body = epochLine.ReplaceAllString(list[i].body, "")
		}
	}
	if !same(got, want) {
		t.Errorf("%q:\n%s    %v\ngoroutine %v", s.parts, name, got, want)
	}
}
