package server_test

import (
	"bufio"
	"bytes"
	"io"
	"net"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"ntrack/tracker"
	"ntrack/tracker/server"
)

// stricter has the reasons for which this server refuses requests that net/http accepts, or that it
// refuses in another way. All of them are deliberate.
var stricter = []string{
	"header Transfer-Encoding: ",      // chunked only, and in HTTP/1.1
	"headers Transfer-Encoding ",      // net/http ignores Content-Length then
	"body: must have chunks",          // after a bad chunk the handler sends no reply
	"trailer of the body: ",           // the limits differ
	"header: each line must be",       // a server may refuse folded lines (RFC 9112 section 5.2)
	"request line and headers: ",      // the limits differ
	"header Expect: ",                 // net/http replies 417 without the handler, or ignores the field
	"HTTP version: ",                  // net/http replies 505
	"request target: ",                // net/http also accepts other targets, for CONNECT
	"request target of ",              // net/http may apply its own limit first
	"header Host: must be given once", // net/http accepts two in HTTP/1.0
}

var emptyLines = regexp.MustCompile(`^\r?\n|\n\r?\n\r?\n`)

// badOption matches a Connection field with something that is no token. This server then closes the
// connection after the reply. net/http reads the field in several ways.
var badOption = regexp.MustCompile("(?im)^connection:.*([^-!#$%&'*+.^_`|~0-9a-z, \t\r\n]|[^:, \t][ \t]+[^, \t\r\n])")

// corpus has bytes that a client may send. Careless parsers get them wrong.
var corpus = []string{
	"GET /ntrk/k?port=1&format=text HTTP/1.1\r\nHost: t\r\n\r\n",
	"GET /ntrk/k?port=1 HTTP/1.0\r\n\r\n",
	"GET /ntrk/k HTTP/1.0\r\nConnection: keep-alive\r\n\r\nGET /ntrk/k HTTP/1.0\r\n\r\n",
	"GET /ntrk/k HTTP/1.1\r\nHost: t\r\nConnection: close\r\n\r\nGET /ntrk/k HTTP/1.1\r\nHost: t\r\n\r\n",
	"GET /ntrk/k HTTP/1.1\r\nHost: t\r\nConnection: foo, CLOSE\r\n\r\nGET /ntrk/k HTTP/1.1\r\nHost: t\r\n\r\n",
	"GET /ntrk/k HTTP/1.1\r\nHost: t\r\nConnection: keep-alive\r\nConnection: close\r\n\r\nGET /ntrk/k HTTP/1.1\r\nHost: t\r\n\r\n",
	"GET /ntrk/k HTTP/1.1\r\nHost: t\r\nConnection: foo, , bar\r\n\r\nGET /ntrk/k HTTP/1.1\r\nHost: t\r\n\r\n",
	"GET /ntrk/k HTTP/1.1\r\nHost: t\r\nConnection:\xe4 close\r\n\r\nGET /ntrk/k HTTP/1.1\r\nHost: t\r\n\r\n",
	"GET /ntrk/k HTTP/1.1\r\nHost: t\r\nConnection: foo\tclose\r\n\r\nGET /ntrk/k HTTP/1.1\r\nHost: t\r\n\r\n",
	"GET /ntrk/k HTTP/1.1\r\nHost: t\r\nConnection: close;q=1\r\n\r\nGET /ntrk/k HTTP/1.1\r\nHost: t\r\n\r\n",
	"GET /ntrk/k HTTP/1.0\r\nConnection: keep-alive 0\r\n\r\nGET /ntrk/k HTTP/1.0\r\n\r\n",
	"GET /ntrk/a HTTP/1.1\r\nHost: t\r\n\r\nGET /ntrk/b HTTP/1.1\r\nHost: t\r\n\r\nDELETE /ntrk/b HTTP/1.1\r\nHost: t\r\n\r\n",
	"GET /ntrk/k HTTP/1.1\r\n\r\n",
	"GET /ntrk/k HTTP/1.1\r\nHost: t\r\nHost: u\r\n\r\n",
	"GET /ntrk/k HTTP/1.0\r\nHost: t\r\nHost: t\r\n\r\n",
	"GET /ntrk/k HTTP/1.1\r\nHost:\r\n\r\n",
	"GET /ntrk/k HTTP/1.1\r\nHost: a b\r\n\r\n",
	"GET /ntrk/k HTTP/1.1\nHost: t\n\n",
	"GET /ntrk/k HTTP/1.1\r\nHost: t\n\r\n",
	"GET  /ntrk/k HTTP/1.1\r\nHost: t\r\n\r\n",
	"GET /ntrk/k  HTTP/1.1\r\nHost: t\r\n\r\n",
	"GET /ntrk/k HTTP/1.1 \r\nHost: t\r\n\r\n",
	" GET /ntrk/k HTTP/1.1\r\nHost: t\r\n\r\n",
	"\r\nGET /ntrk/k HTTP/1.1\r\nHost: t\r\n\r\n",
	"GET /ntrk/k\r\n\r\n",
	"GET /ntrk/k HTTP/2.0\r\nHost: t\r\n\r\n",
	"GET /ntrk/k HTTP/1.2\r\nHost: t\r\n\r\n",
	"GET /ntrk/k http/1.1\r\nHost: t\r\n\r\n",
	"GET /ntrk/k HTTP/1.10\r\nHost: t\r\n\r\n",
	"GET /ntrk/k\x00 HTTP/1.1\r\nHost: t\r\n\r\n",
	"GET /ntrk/\xff\xfe HTTP/1.1\r\nHost: t\r\n\r\n",
	"G(T /ntrk/k HTTP/1.1\r\nHost: t\r\n\r\n",
	"FOO /ntrk/k HTTP/1.1\r\nHost: t\r\n\r\n",
	"get /ntrk/k HTTP/1.1\r\nHost: t\r\n\r\n",
	"GET http://t/ntrk/k?port=7 HTTP/1.1\r\nHost: t\r\n\r\n",
	"GET http://t HTTP/1.1\r\nHost: t\r\n\r\n",
	"OPTIONS * HTTP/1.1\r\nHost: t\r\n\r\n",
	"HEAD /ntrk/k HTTP/1.1\r\nHost: t\r\n\r\nGET /ntrk/k?port=0 HTTP/1.1\r\nHost: t\r\n\r\n",
	"POST /ntrk/k?port=5 HTTP/1.1\r\nHost: t\r\nContent-Length: 5\r\n\r\nhelloGET /ntrk/k HTTP/1.1\r\nHost: t\r\n\r\n",
	"POST /ntrk/k?port=5 HTTP/1.1\r\nHost: t\r\nContent-Length: 5\r\n\r\nhello\r\nGET /ntrk/k HTTP/1.1\r\nHost: t\r\n\r\n",
	"POST /ntrk/k?port=5 HTTP/1.1\r\nHost: t\r\n\r\n",
	"POST /ntrk/k HTTP/1.1\r\nHost: t\r\nContent-Length: 5\r\nContent-Length: 5\r\n\r\nhelloGET /ntrk/k HTTP/1.1\r\nHost: t\r\n\r\n",
	"POST /ntrk/k HTTP/1.1\r\nHost: t\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello",
	"POST /ntrk/k HTTP/1.1\r\nHost: t\r\nContent-Length: +5\r\n\r\nhello",
	"POST /ntrk/k HTTP/1.1\r\nHost: t\r\nContent-Length: 5, 5\r\n\r\nhello",
	"POST /ntrk/k HTTP/1.1\r\nHost: t\r\nContent-Length:\r\n\r\n",
	"POST /ntrk/k HTTP/1.1\r\nHost: t\r\nContent-Length: -1\r\n\r\n",
	"POST /ntrk/k HTTP/1.1\r\nHost: t\r\nContent-Length: 99999999999999999999\r\n\r\n",
	"GET /ntrk/k HTTP/1.1\r\nHost: t\r\nContent-Length: 3\r\n\r\nabcGET /ntrk/k HTTP/1.1\r\nHost: t\r\n\r\n",
	"POST /ntrk/k HTTP/1.1\r\nHost: t\r\nContent-Length: 50\r\n\r\ncut short",
	"POST /ntrk/k HTTP/1.1\r\nHost: t\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
	"POST /ntrk/k HTTP/1.1\r\nHost: t\r\nTransfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n0\r\n\r\n",
	"POST /ntrk/k HTTP/1.1\r\nHost: t\r\nTransfer-Encoding: Chunked\r\n\r\n5;a=b\r\nhello\r\n3\r\nabc\r\n0\r\nX: y\r\n\r\nGET /ntrk/k HTTP/1.1\r\nHost: t\r\n\r\n",
	"POST /ntrk/k HTTP/1.1\r\nHost: t\r\nTransfer-Encoding: chunked\r\nExpect: 100-continue\r\n\r\n5\r\nhello\r\n0\r\n\r\nGET /ntrk/k HTTP/1.1\r\nHost: t\r\n\r\n",
	"GET /ntrk/k HTTP/1.1\r\nHost: t\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nDELETE /ntrk/k HTTP/1.1\r\nHost: t\r\n\r\n",
	"POST /ntrk/k HTTP/1.1\r\nHost: t\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhel",
	"POST /ntrk/k HTTP/1.1\r\nHost: t\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nX: y\r\n",
	"POST /ntrk/k HTTP/1.1\r\nHost: t\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello!\r\n0\r\n\r\n",
	"POST /ntrk/k HTTP/1.1\r\nHost: t\r\nTransfer-Encoding: chunked\r\n\r\n-1\r\n\r\n0\r\n\r\n",
	"POST /ntrk/k HTTP/1.1\r\nHost: t\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n0\r\n\r\n",
	"POST /ntrk/k HTTP/1.1\r\nHost: t\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
	"POST /ntrk/k HTTP/1.1\r\nHost: t\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
	"POST /ntrk/k HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
	"GET /ntrk/a HTTP/1.1\r\nHost: t\r\n\r\n\r\n\nPOST /ntrk/b HTTP/1.1\r\nHost: t\r\n\r\n\r\nGET /ntrk/c HTTP/1.1\r\nHost: t\r\n\r\n",
	"GET /ntrk/a HTTP/1.1\r\nHost: t\r\n\r\n\r\r\nGET /ntrk/b HTTP/1.1\r\nHost: t\r\n\r\n",
	"GET /ntrk/a HTTP/1.1\r\nHost: t\r\n\r\n\r\n",
	"POST /ntrk/k HTTP/1.1\r\nHost: t\r\nTransfer-Encoding: identity\r\n\r\n",
	"POST /ntrk/k HTTP/1.1\r\nHost: t\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\nhelloGET /ntrk/k HTTP/1.1\r\nHost: t\r\n\r\n",
	"POST /ntrk/k HTTP/1.1\r\nHost: t\r\nExpect: tea\r\n\r\n",
	"GET /ntrk/k HTTP/1.1\r\nHost: t\r\nX: a\r\n b\r\n\r\n",
	"GET /ntrk/k HTTP/1.1\r\n X: a\r\nHost: t\r\n\r\n",
	"GET /ntrk/k HTTP/1.1\r\nHost: t\r\nX : a\r\n\r\n",
	"GET /ntrk/k HTTP/1.1\r\nHost: t\r\nnocolon\r\n\r\n",
	"GET /ntrk/k HTTP/1.1\r\nHost: t\r\n: empty\r\n\r\n",
	"GET /ntrk/k HTTP/1.1\r\nHost: t\r\nX: a\x01b\r\n\r\n",
	"GET /ntrk/k HTTP/1.1\r\nHost: t\r\nX: a\tb \xff\r\n\r\n",
	"GET /ntrk/k HTTP/1.1\r\nHost: t\r\nX: a\rb\r\n\r\n",
	"GET /ntrk/k HTTP/1.1\r\nHost: t\r\nAccept: text/plain;q=0.1\r\nAccept: application/json\r\n\r\n",
	"GET /ntrk/k HTTP/1.1\r\nHost: t\r\nORIGIN: x\r\nsec-fetch-mode: navigate\r\n\r\n",
	"DELETE /ntrk/k HTTP/1.1\r\nHost: t\r\nOrigin: x\r\n\r\nGET /ntrk/k HTTP/1.1\r\nHost: t\r\n\r\n",
	"GET /ntrk/%zz HTTP/1.1\r\nHost: t\r\n\r\nGET /ntrk/k HTTP/1.1\r\nHost: t\r\n\r\n",
	"GET /announce?info_hash=%zz&port=1 HTTP/1.1\r\nHost: t\r\n\r\nGET /ntrk/k HTTP/1.1\r\nHost: t\r\n\r\n",
	"CONNECT t:80 HTTP/1.1\r\nHost: t\r\n\r\n",
	"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
	"GET /ntrk/k HTTP/1.1\r\nHost: t\r\nUpgrade: h2c\r\nConnection: Upgrade\r\n\r\n",
	"GET /" + strings.Repeat("a", 9000) + " HTTP/1.1\r\nHost: t\r\n\r\n",
	"GET /ntrk/k HTTP/1.1\r\nHost: t\r\nX: " + strings.Repeat("a", 30000) + "\r\n\r\n",
	"",
	"GET",
}

// This server sends the same replies as net/http. Its workers send the same replies as its
// goroutines. It makes no difference whether a request arrives as a whole or is split after any
// byte.
func TestServersAgree(t *testing.T) {
	for _, in := range corpus {
		compare(t, []byte(in))
		compareWorker(t, []byte(in), len(in) <= 1000)
		if len(in) > 1000 {
			continue
		}
		whole := viaGoroutine(t, []byte(in))
		for i := range in {
			if split := viaGoroutine(t, []byte(in[:i]), []byte(in[i:])); !same(whole, split) {
				t.Errorf("%q split at %d:\n%v\nwhole:\n%v", in, i, split, whole)
			}
		}
	}
}

func FuzzServersAgree(f *testing.F) {
	for _, in := range corpus {
		f.Add([]byte(in))
	}
	f.Fuzz(func(t *testing.T, in []byte) {
		if !bytes.Contains(in, []byte("HEAD ")) { // readReplies cannot always separate the replies to HEAD
			compare(t, in)
			compareWorker(t, in, false)
		}
	})
}

// compare sends in to this server and to net/http, and compares the replies.
func compare(t *testing.T, in []byte) {
	t.Helper()
	ours, std := viaGoroutine(t, in), viaNetHTTP(t, in)
	for i, got := range ours {
		if i >= len(std) && got.refused() && got.close {
			return // net/http sends no reply if a second request has less than four bytes
		}
		if i >= len(std) {
			t.Errorf("%q: reply %d only from this server: %v", in, i+1, got)
			return
		}
		want := std[i]
		switch {
		case want.byNetHTTP() && emptyLines.Match(in):
			return // net/http accepts one empty line after a POST; this server accepts any number anywhere
		case got.refused() && slices.ContainsFunc(stricter, func(r string) bool { return strings.HasPrefix(got.body, r) }):
			return
		case got.refused() && want.refused() && (want.byNetHTTP() || got.status == 400 && got.close):
			return // each server has its own words for a refusal without the tracker
		}
		if got.close && !want.close && badOption.Match(in) {
			return
		}
		if !got.equal(want) {
			t.Errorf("%q: reply %d:\nthis server %v\nnet/http    %v", in, i+1, got, want)
			return
		}
	}
	if len(ours) < len(std) && !std[len(ours)].byNetHTTP() { // otherwise this server waited for the rest of a body
		t.Errorf("%q: %d replies, net/http has one more: %v", in, len(ours), std[len(ours)])
	}
}

// A reply has what must be the same in the replies of both servers.
type reply struct {
	status      int
	contentType string
	length      int64
	close       bool
	body        string
}

// refused says that the request was refused. The classic interface refuses with status 200.
func (r reply) refused() bool {
	return r.status >= 400 || strings.HasPrefix(r.body, "d14:failure reason")
}

// byNetHTTP says that net/http refused the request itself, without the handler.
func (r reply) byNetHTTP() bool {
	return r.close && r.length < 0 || r.status == 417 || r.status == 431 || r.status == 501 || r.status == 505
}

// equal ignores the order of a body's bytes, because peers have no order.
func (r reply) equal(s reply) bool {
	a, b := []byte(r.body), []byte(s.body)
	slices.Sort(a)
	slices.Sort(b)
	return r.status == s.status && r.contentType == s.contentType && r.length == s.length && r.close == s.close && bytes.Equal(a, b)
}

// same says whether the replies in a and b are equal, one by one.
func same(a, b []reply) bool { return slices.EqualFunc(a, b, reply.equal) }

func viaGoroutine(t *testing.T, chunks ...[]byte) []reply {
	return viaGoroutineFrom(t, somewhere, chunks...)
}

func viaGoroutineFrom(t *testing.T, from net.Addr, chunks ...[]byte) []reply {
	return via(t, from, chunks, func(l net.Listener) {
		s := &server.Server{Tracker: &tracker.Tracker{}, Log: server.LogTo(func(line string) { t.Error(line) })}
		_ = s.Serve(l)
	})
}

func viaNetHTTP(t *testing.T, chunks ...[]byte) []reply {
	return via(t, somewhere, chunks, func(l net.Listener) {
		s := &http.Server{Handler: tracker.Handler(&tracker.Tracker{}), DisableGeneralOptionsHandler: true, MaxHeaderBytes: 16 << 10}
		_ = s.Serve(l)
	})
}

// via sends chunks to a server on one connection and returns the replies until the server closes
// it.
func via(t *testing.T, from net.Addr, chunks [][]byte, serve func(net.Listener)) []reply {
	t.Helper()
	c := &playedConn{from: from, chunks: slices.Clone(chunks), closed: make(chan struct{})}
	l := &oneListener{conn: c, done: make(chan struct{})}
	ended := make(chan struct{})
	go func() {
		serve(l)
		close(ended)
	}()
	select {
	case <-c.closed:
	case <-time.After(20 * time.Second):
		t.Fatalf("%q: the connection hangs", chunks)
	}
	l.Close()
	await(t, "Serve", ended)
	c.mu.Lock()
	defer c.mu.Unlock()
	return readReplies(t, bytes.Join(chunks, nil), c.out.Bytes())
}

// readReplies parses out, which a server sent in reply to in.
func readReplies(t *testing.T, in, out []byte) (replies []reply) {
	t.Helper()
	methods := methodsOf(in)
	for r := bufio.NewReader(bytes.NewReader(out)); ; {
		if _, err := r.Peek(1); err != nil {
			return replies
		}
		method := "GET"
		if len(replies) < len(methods) {
			method = methods[len(replies)]
		}
		resp, err := http.ReadResponse(r, &http.Request{Method: method})
		if err != nil {
			t.Fatalf("%q: no HTTP: %v in %q", in, err, out)
		}
		body, _ := io.ReadAll(resp.Body)
		if resp.StatusCode == 100 {
			continue
		}
		replies = append(replies, reply{resp.StatusCode, resp.Header.Get("Content-Type"), resp.ContentLength, resp.Close, string(body)})
	}
}

// methodsOf guesses the methods of pipelined requests. readReplies needs them, because the reply to
// HEAD has no body.
func methodsOf(in []byte) []string {
	var m []string
	for line := range strings.Lines(string(in)) {
		if name, _, ok := strings.Cut(line, " "); ok && strings.Contains(line, " HTTP/1.") {
			m = append(m, name)
		}
	}
	return m
}

var somewhere = &net.TCPAddr{IP: net.IPv4(192, 0, 2, 1), Port: 1001}

// A playedConn is a connection in memory. The server reads chunks from it and then io.EOF, and what
// the server writes is in out.
type playedConn struct {
	from   net.Addr
	mu     sync.Mutex
	chunks [][]byte
	out    bytes.Buffer
	once   sync.Once
	closed chan struct{}
}

func (c *playedConn) Read(b []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for len(c.chunks) > 0 && len(c.chunks[0]) == 0 {
		c.chunks = c.chunks[1:]
	}
	if len(c.chunks) == 0 {
		return 0, io.EOF
	}
	n := copy(b, c.chunks[0])
	c.chunks[0] = c.chunks[0][n:]
	return n, nil
}

func (c *playedConn) Write(b []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.out.Write(b)
}

func (c *playedConn) Close() error {
	c.once.Do(func() { close(c.closed) })
	return nil
}

func (c *playedConn) LocalAddr() net.Addr              { return &net.TCPAddr{IP: net.IPv4(192, 0, 2, 9), Port: 80} }
func (c *playedConn) RemoteAddr() net.Addr             { return c.from }
func (c *playedConn) SetDeadline(time.Time) error      { return nil }
func (c *playedConn) SetReadDeadline(time.Time) error  { return nil }
func (c *playedConn) SetWriteDeadline(time.Time) error { return nil }

// A oneListener accepts one connection.
type oneListener struct {
	mu   sync.Mutex
	conn net.Conn
	once sync.Once
	done chan struct{}
}

func (l *oneListener) Accept() (net.Conn, error) {
	l.mu.Lock()
	c := l.conn
	l.conn = nil
	l.mu.Unlock()
	if c != nil {
		return c, nil
	}
	<-l.done
	return nil, net.ErrClosed
}

func (l *oneListener) Close() error {
	l.once.Do(func() { close(l.done) })
	return nil
}

func (l *oneListener) Addr() net.Addr { return &net.TCPAddr{} }
