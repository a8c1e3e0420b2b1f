// Package door is the lean door to a tracker: HTTP/1 for this one protocol over net.Listener, a
// goroutine for each connection. It does what tracker.Handler does under net/http, in a fraction
// of the time and memory, and refuses what it has no use for: chunked requests, folded headers.
// For TLS give it a tls.NewListener.
//
//	s := &door.Server{Tracker: &tracker.Tracker{}}
//	err := s.Serve(listener)
package door

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/netip"
	"runtime/debug"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"ntrack/announce"
	"ntrack/tracker"
)

// Defaults of a Server.
const (
	DefaultTimeout = 10 * time.Second
	DefaultIdle    = 2 * time.Minute
)

const (
	maxHead   = announce.MaxTarget + 8<<10 // request line and headers
	maxBody   = 64 << 10                   // of a request; it is read and ignored
	firstRead = 2 << 10                    // a usual request has a few hundred bytes
	lingering = 500 * time.Millisecond
)

// A Server answers connections. Tracker must be set; the other fields have useful zero values. It
// must not be changed once it serves, nor copied.
type Server struct {
	Tracker *tracker.Tracker
	// Timeout is how long a request may take from its first byte to its last, however the bytes
	// come; 0 is DefaultTimeout.
	Timeout time.Duration
	// Idle is how long a connection may stay without a request, or its client not take a reply;
	// 0 is DefaultIdle.
	Idle time.Duration
	// MaxConns is how many connections there may be; one more is answered 503. 0 is no limit.
	MaxConns int
	// Logf is told of panics; nil drops them. A panic ends its connection and no other.
	Logf func(format string, args ...any)

	once    sync.Once
	buffers sync.Pool // of *buffers
	ending  atomic.Bool
	date    atomic.Pointer[stamp]
	mu      sync.Mutex
	open    map[*conn]struct{}
	listens map[net.Listener]struct{}
	active  sync.WaitGroup
}

// buffers are what a request needs and the next of any connection can use again.
type buffers struct {
	in, out, body []byte
	call          tracker.Call
}

// ErrClosed is what Serve returns after Shutdown.
var ErrClosed = errors.New("door: server closed")

func (s *Server) init() {
	s.buffers.New = func() any { return &buffers{in: make([]byte, 0, firstRead)} }
	s.open, s.listens = make(map[*conn]struct{}), make(map[net.Listener]struct{})
	if s.Timeout <= 0 {
		s.Timeout = DefaultTimeout
	}
	if s.Idle <= 0 {
		s.Idle = DefaultIdle
	}
}

// Serve accepts connections from l until that fails or Shutdown, and closes l.
func (s *Server) Serve(l net.Listener) error {
	s.once.Do(s.init)
	s.mu.Lock()
	s.listens[l] = struct{}{}
	s.mu.Unlock()
	defer l.Close()
	for pause := time.Duration(0); ; {
		nc, err := l.Accept()
		switch {
		case err == nil:
			pause = 0
			s.start(nc)
		case s.ending.Load():
			return ErrClosed
		case isTemporary(err):
			// Out of file descriptors, mostly: those that have one will give it back.
			pause = min(max(2*pause, 5*time.Millisecond), time.Second)
			time.Sleep(pause)
		default:
			return err
		}
	}
}

func isTemporary(err error) bool {
	t, ok := errors.AsType[interface {
		error
		Temporary() bool
	}](err)
	return ok && t.Temporary()
}

func (s *Server) start(nc net.Conn) {
	c := &conn{s: s, nc: nc}
	c.remote, _ = netip.ParseAddrPort(nc.RemoteAddr().String())
	if a, ok := nc.RemoteAddr().(*net.TCPAddr); ok {
		c.remote = a.AddrPort()
	}
	s.mu.Lock()
	full := s.MaxConns > 0 && len(s.open) >= s.MaxConns
	if !full {
		s.open[c] = struct{}{}
		s.active.Add(1)
	}
	s.mu.Unlock()
	if full {
		_ = nc.SetWriteDeadline(time.Now().Add(time.Second))
		_, _ = io.WriteString(nc, "HTTP/1.1 503 Service Unavailable\r\nContent-Type: text/plain; charset=utf-8\r\n"+
			"Content-Length: 21\r\nRetry-After: 60\r\nConnection: close\r\n\r\ntoo many connections\n")
		_ = nc.Close()
		return
	}
	go c.serve()
}

// Shutdown stops accepting, closes idle connections at once and the others after their reply, and
// waits for them until ctx ends; then it closes what is left.
func (s *Server) Shutdown(ctx context.Context) error {
	s.once.Do(s.init)
	s.ending.Store(true)
	s.mu.Lock()
	for l := range s.listens {
		_ = l.Close()
	}
	for c := range s.open {
		if c.idle.Load() {
			_ = c.nc.SetReadDeadline(time.Unix(1, 0))
		}
	}
	s.mu.Unlock()
	done := make(chan struct{})
	go func() {
		s.active.Wait()
		close(done)
	}()
	select {
	case <-done:
		return nil
	case <-ctx.Done():
	}
	s.mu.Lock()
	for c := range s.open {
		_ = c.nc.Close()
	}
	s.mu.Unlock()
	return ctx.Err()
}

// conn is one connection.
type conn struct {
	s      *Server
	nc     net.Conn
	remote netip.AddrPort
	idle   atomic.Bool // between requests: may be closed
	// until is the deadline set last. It is moved only once a good part of it is used up: to set
	// one costs as much as to parse a request.
	until  time.Time
	posted bool // the last request was a POST, which old clients end with one CRLF too many
}

func (c *conn) serve() {
	buf := c.s.buffers.Get().(*buffers)
	buf.in = buf.in[:0]
	defer func() {
		if cap(buf.body) > 1<<20 { // an index; no need to keep that much for what comes next
			buf.body, buf.out = nil, nil
		}
		if p := recover(); p != nil && c.s.Logf != nil {
			c.s.Logf("panic while serving %s: %v\n%s", c.remote, p, debug.Stack())
		}
		_ = c.nc.Close()
		c.s.buffers.Put(buf)
		c.s.mu.Lock()
		delete(c.s.open, c)
		c.s.mu.Unlock()
		c.s.active.Done()
	}()
	var h head
	for {
		n, err := c.readHead(buf)
		if err != nil {
			if refused, ok := err.(refusal); ok {
				c.refuse(buf, refused)
			}
			return
		}
		if err := h.parse(buf.in[:n]); err != nil {
			c.refuse(buf, refusal(err.Error()))
			return
		}
		used, left, err := c.drain(buf, &h, n)
		if err != nil {
			return
		}
		if !c.answer(buf, &h, !h.keepAlive || left > 0) {
			if left > 0 {
				c.linger()
			}
			return
		}
		c.posted = h.method == "POST"
		buf.in = buf.in[:copy(buf.in, buf.in[used:])]
	}
}

// refusal is why a request is answered 400 before a tracker sees it.
type refusal string

func (r refusal) Error() string { return string(r) }

// readHead reads until buf.in begins with a whole head and returns how long that is.
func (c *conn) readHead(buf *buffers) (int, error) {
	started := len(buf.in) > 0 // pipelined
	c.deadline(started)
	for searched := 0; ; {
		if c.posted {
			buf.in = buf.in[:copy(buf.in, bytes.TrimLeft(buf.in, "\r\n"))]
			c.posted = len(buf.in) == 0
		}
		if len(buf.in) > 0 && !isToken(buf.in[:1]) && buf.in[0] != '\r' && buf.in[0] != '\n' {
			return 0, refusal("no HTTP request") // a TLS client, mostly: tell it before it waits
		}
		if n := headEnd(buf.in, searched); n > 0 {
			if n > maxHead {
				return 0, refusal("request line and headers: at most " + strconv.Itoa(maxHead) + " bytes")
			}
			return n, nil
		}
		searched = len(buf.in)
		if searched > maxHead {
			return 0, refusal("request line and headers: at most " + strconv.Itoa(maxHead) + " bytes")
		}
		if searched > 0 && !started {
			started = true
			c.deadline(true)
		}
		if !started {
			c.idle.Store(true)
			if c.s.ending.Load() {
				return 0, ErrClosed
			}
		}
		err := c.read(buf)
		c.idle.Store(false)
		if err == io.EOF && len(buf.in) > 0 {
			err = refusal("request cut short")
		}
		if err != nil {
			return 0, err
		}
	}
}

// read reads what there is, behind what buf.in has.
func (c *conn) read(buf *buffers) error {
	if len(buf.in) == cap(buf.in) {
		buf.in = append(buf.in, make([]byte, max(cap(buf.in), firstRead))...)[:len(buf.in)]
	}
	n, err := c.nc.Read(buf.in[len(buf.in):cap(buf.in)])
	buf.in = buf.in[:len(buf.in)+n]
	if n > 0 {
		return nil
	}
	return err
}

// deadline gives a request that has begun its time, or an idle connection its own.
func (c *conn) deadline(begun bool) {
	now := time.Now()
	if begun {
		c.until = now.Add(c.s.Timeout)
	} else {
		left := c.until.Sub(now)
		if left > c.s.Idle*7/8 {
			return
		}
		c.until = now.Add(c.s.Idle)
	}
	_ = c.nc.SetDeadline(c.until)
}

// drain reads what follows a head of n bytes and belongs to the request, and ignores it. It returns
// how much of buf.in is used up, and how much of the body is left because it is too much.
func (c *conn) drain(buf *buffers, h *head, n int) (used int, left int64, err error) {
	here := min(h.length, int64(len(buf.in)-n))
	used, left = n+int(here), h.length-here
	if left == 0 {
		return used, 0, nil
	}
	if h.expect {
		if _, err := io.WriteString(c.nc, "HTTP/1.1 100 Continue\r\n\r\n"); err != nil {
			return 0, 0, err
		}
	}
	c.deadline(true)
	read, err := io.CopyN(io.Discard, c.nc, min(left, maxBody))
	return used, left - read, err
}

// answer asks the tracker and sends what it says. It reports whether the connection goes on.
func (c *conn) answer(buf *buffers, h *head, close bool) bool {
	call := &buf.call
	*call = tracker.Call{
		Method: h.method, Target: h.target, Remote: c.remote,
		Accept: h.accept, Authorization: h.authorization, ForwardedFor: h.forwardedFor, FetchMode: h.fetchMode,
		Origin: h.origin, Page: h.page,
	}
	var resp tracker.Response
	resp, buf.body = c.s.Tracker.Answer(context.Background(), call, buf.body[:0])
	close = close || resp.Close || c.s.ending.Load()
	c.send(buf, &resp, h, close)
	return c.flush(buf) && !close
}

// refuse answers what is no request that a tracker could see.
func (c *conn) refuse(buf *buffers, why refusal) {
	resp := tracker.Response{Status: 400, Type: "text/plain; charset=utf-8"}
	buf.body = append(append(buf.body[:0], why...), '\n')
	c.send(buf, &resp, &head{minor: 1}, true)
	if c.flush(buf) {
		c.linger()
	}
}

// send appends a reply to buf.out.
func (c *conn) send(buf *buffers, resp *tracker.Response, h *head, close bool) {
	now := time.Now()
	out := append(buf.out, "HTTP/1.1 "...)
	out = append(out, status(resp.Status)...)
	out = c.s.appendDate(append(out, "\r\nDate: "...), now)
	out = resp.AppendHeader(append(out, "\r\n"...), now)
	if resp.Status != 204 {
		out = append(out, "Content-Length: "...)
		out = append(strconv.AppendInt(out, int64(len(buf.body)), 10), "\r\n"...)
	}
	switch {
	case close:
		out = append(out, "Connection: close\r\n"...)
	case h.minor == 0:
		out = append(out, "Connection: keep-alive\r\n"...)
	}
	out = append(out, "\r\n"...)
	if h.method != "HEAD" {
		out = append(out, buf.body...)
	}
	buf.out = out
}

// flush writes buf.out.
func (c *conn) flush(buf *buffers) bool {
	_, err := c.nc.Write(buf.out)
	buf.out = buf.out[:0]
	return err == nil
}

// linger gives the client a moment to read the reply before the connection ends: a close with
// bytes unread would reset it and could take the reply with it.
func (c *conn) linger() {
	if cw, ok := c.nc.(interface{ CloseWrite() error }); ok && cw.CloseWrite() == nil {
		_ = c.nc.SetReadDeadline(time.Now().Add(lingering))
		_, _ = io.CopyN(io.Discard, c.nc, 4*maxBody)
	}
}

// status is the status line from the code on.
func status(code int) string {
	switch code {
	case 200:
		return "200 OK"
	case 204:
		return "204 No Content"
	case 400:
		return "400 Bad Request"
	case 401:
		return "401 Unauthorized"
	case 404:
		return "404 Not Found"
	case 503:
		return "503 Service Unavailable"
	}
	return "500 Internal Server Error"
}

// stamp is a second and its text.
type stamp struct {
	unix int64
	text string
}

// appendDate appends the Date of now, which is worked out once a second.
func (s *Server) appendDate(dst []byte, now time.Time) []byte {
	d := s.date.Load()
	if d == nil || d.unix != now.Unix() {
		d = &stamp{now.Unix(), now.UTC().Format(http.TimeFormat)}
		s.date.Store(d)
	}
	return append(dst, d.text...)
}
