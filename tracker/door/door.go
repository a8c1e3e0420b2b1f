// Package door is the lean door to a tracker: HTTP/1 for this one protocol over net.Listener. It
// does what tracker.Handler does under net/http, in a fraction of the time and memory, and refuses
// what it has no use for, such as folded headers. For TLS give it a tls.NewListener.
//
// Each connection has a goroutine. Only on Linux, where the listener is a *net.TCPListener, a few
// goroutines answer all of them, and a connection gets one of its own with the first request that
// is anything but plain, or that the tracker may have to wait for (see [tracker.Tracker.Prompt]).
// That takes about half the time where each announce has a connection of its own, and a
// connection that idles takes no stack and no buffer. Nothing else differs.
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
	"net/netip"
	"os"
	"runtime"
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
	maxHead = announce.MaxTarget + 8<<10 // request line and headers
	maxBody = 64 << 10                   // of a request; it is read and ignored
	// A turn is what one connection has answered before it is another's turn: that many requests,
	// or fewer once the replies have that many bytes. Its replies go out in one write.
	maxAnswers = 16
	maxReplies = 64 << 10
	firstRead  = 2 << 10 // a usual request has a few hundred bytes
	lingering  = 500 * time.Millisecond
	// late is by how much a deadline is overdue where this process has been stopped.
	late = time.Second
)

// A Server answers connections. Tracker must be set; the other fields have useful zero values. It
// must not be changed once it serves, nor copied.
type Server struct {
	Tracker *tracker.Tracker
	// Timeout is how long a request may take from its first byte to its last, however the bytes
	// come, and how long a client may take nothing of a reply; 0 is DefaultTimeout.
	Timeout time.Duration
	// Idle is how long a connection may stay without a request; 0 is DefaultIdle.
	Idle time.Duration
	// MaxConns is how many connections there may be. One more takes the place of the one that has
	// been idle longest, or is answered 503 if none is. 0 is DefaultMaxConns, less than 0 no limit.
	// On Unix there are never more than about nine tenths of the files that the process may have
	// open, and half where these are few: one that needs more of them for something else sets a
	// lower limit.
	MaxConns int
	// MaxConnsPerAddr is how many of these one IPv4 address or IPv6 /64 may have. 0 is
	// DefaultMaxConnsPerAddr, or a quarter of all if that is less; less than 0 is no limit. There
	// is none for loopback addresses, Unix sockets and the Tracker's Proxies.
	MaxConnsPerAddr int
	// Logf gets panics, each of which ends its connection and no other, and, once a minute at most,
	// that a connection was refused; nil drops them.
	Logf func(format string, args ...any)

	userTimeout time.Duration // of streams; not 45 seconds only in a test

	once    sync.Once
	inputs  sync.Pool // of *[]byte
	outputs sync.Pool // of *output
	ending  atomic.Bool
	date    atomic.Pointer[stamp]
	census  census
	quiet   waiting // of those with a goroutine of their own: yet to send a first request
	idle    waiting // and answered
	mu      sync.Mutex
	open    map[*conn]struct{} // those with a goroutine of their own
	ways    map[way]struct{}
	active  sync.WaitGroup
}

// A way is how the connections of one listener are served.
type way interface {
	// serve accepts connections until that fails or the way is closed.
	serve() error
	io.Closer
}

// ErrClosed is what Serve returns after Shutdown.
var ErrClosed = errors.New("door: server closed")

func (s *Server) init() {
	s.inputs.New = func() any { b := make([]byte, 0, firstRead); return &b }
	s.outputs.New = func() any { return new(output) }
	s.open, s.ways = make(map[*conn]struct{}), make(map[way]struct{})
	if s.Timeout <= 0 {
		s.Timeout = DefaultTimeout
	}
	if s.Idle <= 0 {
		s.Idle = DefaultIdle
	}
	if s.userTimeout == 0 {
		s.userTimeout = userTimeout
	}
	s.census.init(s)
	s.census.watch(&s.quiet, false)
	s.census.watch(&s.idle, true)
}

// Serve accepts connections from l until that fails or Shutdown, and closes l.
func (s *Server) Serve(l net.Listener) error {
	s.once.Do(s.init)
	defer l.Close()
	s.mu.Lock()
	if s.ending.Load() {
		s.mu.Unlock()
		return ErrClosed
	}
	w := s.loops(l)
	if w == nil {
		w = portable{l, s}
	}
	s.ways[w] = struct{}{}
	s.mu.Unlock()
	defer func() {
		s.mu.Lock()
		delete(s.ways, w)
		s.mu.Unlock()
	}()
	return w.serve()
}

// portable is the way with a goroutine for each connection. It is the reference for every other,
// and who has a case that another does not take hands the connection over to it.
type portable struct {
	net.Listener
	s *Server
}

func (p portable) serve() error {
	for pause := time.Duration(0); ; {
		nc, err := p.Accept()
		switch {
		case err == nil:
			pause = 0
			p.s.start(nc)
		case p.s.ending.Load():
			return ErrClosed
		case isTemporary(err):
			// Out of file descriptors, mostly: those that have one will give it back.
			p.s.note(ofFiles, "no connection can be accepted: %v", err)
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
	switch a := nc.RemoteAddr().(type) {
	case *net.TCPAddr:
		c.remote = a.AddrPort()
	case *net.UnixAddr:
		c.unix = true
	case nil:
	default:
		c.remote, _ = netip.ParseAddrPort(a.String())
	}
	c.admission = s.admit(c.remote)
	switch _, tls := nc.(interface{ NetConn() net.Conn }); {
	case c.admission == admitted:
	case tls: // an answer would take a handshake
		s.release(c.remote, c.admission)
		_ = nc.Close()
		return
	case c.admission == refused:
		c.owed, c.last = []byte(tooMany), true
	case c.admission == rejected:
		_ = nc.SetWriteDeadline(time.Now().Add(time.Second))
		_, _ = io.WriteString(nc, tooMany)
		_ = nc.Close()
		return
	}
	s.mu.Lock()
	if s.ending.Load() { // nobody may join those Shutdown waits for
		s.mu.Unlock()
		s.release(c.remote, c.admission)
		_ = nc.Close()
		return
	}
	s.add(c)
	s.mu.Unlock()
	if c.owed == nil {
		c.waiter.owner, c.waits = c, true
		s.quiet.push(&c.waiter, time.Now())
	}
	go c.serve()
}

// add makes c one of those that Shutdown waits for. s.mu is locked.
func (s *Server) add(c *conn) {
	s.open[c] = struct{}{}
	s.active.Add(1)
}

// Shutdown stops accepting, closes idle connections at once and the others after their reply, ends
// the tracker's event streams, and waits for them until ctx ends; then it closes what is left.
func (s *Server) Shutdown(ctx context.Context) error {
	s.once.Do(s.init)
	s.mu.Lock()
	s.ending.Store(true)
	for w := range s.ways {
		_ = w.Close()
	}
	s.mu.Unlock()
	for s.quiet.evict() || s.idle.evict() {
	}
	s.Tracker.EndStreams()
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

// conn is one connection with a goroutine of its own.
type conn struct {
	s         *Server
	nc        net.Conn
	remote    netip.AddrPort
	unix      bool // there is no remote
	admission admission
	waiter    waiter // where it has no request
	waits     bool   // it has had none since it came
	// until is the deadline set last. It is moved only once a good part of it is used up: to set
	// one costs as much as to parse a request.
	until  time.Time
	takeBy time.Time // the deadline for writing, until which the client has to take something
	begun  bool      // the deadline is that of a request
	in     []byte    // read and not yet answered
	o      *output   // the replies of this turn; nil where there are none
	turn   int       // how many
	// owed is a reply that another way could not send, last that the connection ends with it.
	owed   []byte
	last   bool
	stream *tracker.Stream // the last reply, if it is one
}

func (c *conn) serve() {
	in := c.s.inputs.Get().(*[]byte)
	c.in = append((*in)[:0], c.in...)
	defer func() {
		if p := recover(); p != nil {
			c.panicked(p)
			_ = c.flush()
		} else if in != nil {
			*in = c.in
			c.s.inputs.Put(in)
		}
		if c.stream != nil {
			c.stream.Close()
		}
		c.s.release(c.remote, c.admission)
		_ = c.nc.Close()
		c.s.mu.Lock()
		delete(c.s.open, c)
		c.s.mu.Unlock()
		c.s.active.Done()
	}()
	// Whoever connects has something to ask; whom another way has answered may idle.
	c.deadline(c.owed == nil)
	err := c.deliver(c.owed)
	if c.last && err == nil {
		c.linger()
	}
	if c.last || err != nil {
		return
	}
	c.owed = nil
	var h head
	for {
		n, err := c.readHead()
		if err != nil {
			if refused, ok := err.(refusal); ok {
				c.refuse(refused)
			}
			return
		}
		if err := h.parse(c.in[:n]); err != nil {
			c.refuse(refusal(err.Error()))
			return
		}
		used, left, err := c.drain(&h, n)
		if why, ok := err.(refusal); ok {
			c.refuse(why)
		}
		if err != nil {
			return
		}
		more, err := c.answer(&h, !h.keepAlive || left > 0)
		switch {
		case err != nil:
			return
		case c.stream != nil:
			*in = c.in
			c.s.inputs.Put(in)
			in, c.in = nil, nil
			c.pump()
			return
		case !more: // one that has asked for the end, and sent nothing else, sends no more
			if h.keepAlive || left > 0 || used < len(c.in) {
				c.linger()
			}
			return
		}
		c.in = c.in[:copy(c.in, c.in[used:])]
		c.begun = false
	}
}

func (c *conn) panicked(p any) { c.s.panicked(c.remote, p) }

func (s *Server) panicked(remote netip.AddrPort, p any) {
	if s.Logf != nil {
		s.Logf("panic while serving %s: %v\n%s", remote, p, debug.Stack())
	}
}

// readHead reads until c.in begins with a whole head and returns how long that is.
func (c *conn) readHead() (int, error) {
	c.deadline(len(c.in) > 0) // what is here already was pipelined
	for searched := 0; ; {
		c.in = c.in[:copy(c.in, skipEmptyLines(c.in))]
		if len(c.in) > 0 && !isToken(c.in[:1]) && c.in[0] != '\r' {
			return 0, refusal("no HTTP request") // a TLS client, mostly: tell it before it waits
		}
		if n := headEnd(c.in, searched); n > 0 {
			if n > maxHead {
				return 0, refusal("request line and headers: at most " + strconv.Itoa(maxHead) + " bytes")
			}
			return n, nil
		}
		searched = len(c.in)
		if searched > maxHead {
			return 0, refusal("request line and headers: at most " + strconv.Itoa(maxHead) + " bytes")
		}
		var err error
		if searched > 0 {
			c.deadline(true)
			err = c.read()
		} else {
			err = c.wait()
		}
		if err == io.EOF && len(c.in) > 0 {
			err = refusal("request cut short")
		}
		if err != nil {
			return 0, err
		}
	}
}

// wait reads the first bytes of a request. Until they are there the connection can be evicted. One
// that was new then gets an answer.
func (c *conn) wait() error {
	if !c.waits {
		if c.waiter.evicted { // but a request came all the same
			return ErrClosed
		}
		c.waiter.owner = c
		c.s.idle.push(&c.waiter, time.Now())
	}
	err := error(ErrClosed)
	if !c.waiter.unlinked() && !c.s.ending.Load() {
		err = c.read()
	}
	c.waiter.unlink()
	c.waits = false
	if err != nil && c.waiter.evicted && !c.waiter.in.answered && !c.s.ending.Load() {
		if c.deliver([]byte(tooMany)) == nil {
			c.linger()
		}
	}
	return err
}

// evict ends the wait for a request.
func (c *conn) evict() { _ = c.nc.SetReadDeadline(time.Unix(1, 0)) }

// read reads what there is, behind what c.in has.
func (c *conn) read() error {
	if err := c.flush(); err != nil {
		return err
	}
	if len(c.in) == cap(c.in) {
		c.in = append(c.in, make([]byte, max(cap(c.in), firstRead))...)[:len(c.in)]
	}
	n, err := c.Read(c.in[len(c.in):cap(c.in)])
	c.in = c.in[:len(c.in)+n]
	if n > 0 {
		return nil
	}
	return err
}

// Read reads from the client. If this process was stopped, it reads what has come meanwhile before
// the deadline counts.
func (c *conn) Read(b []byte) (int, error) {
	for {
		n, err := c.nc.Read(b)
		if n > 0 || !errors.Is(err, os.ErrDeadlineExceeded) || time.Since(c.until) < late || c.s.ending.Load() {
			return n, err
		}
		c.until = time.Now().Add(late)
		_ = c.nc.SetReadDeadline(c.until)
	}
}

// deadline gives a request that has begun its time, once, or an idle connection its own.
func (c *conn) deadline(begun bool) {
	if c.begun {
		return
	}
	now := time.Now()
	if c.begun = begun; begun {
		c.until = now.Add(c.s.Timeout)
	} else {
		// A little more than Idle, so that it need not be moved for every request.
		if left := c.until.Sub(now); c.s.Idle <= left && left <= c.s.Idle*9/8 {
			return
		}
		c.until = now.Add(c.s.Idle * 9 / 8)
	}
	c.takeBy = c.until
	_ = c.nc.SetDeadline(c.until)
}

// proceed is for a client that waits for it before it sends a body.
const proceed = "HTTP/1.1 100 Continue\r\n\r\n"

// drain reads what follows a head of n bytes and belongs to the request, and ignores it. It returns
// how much of c.in is used up, and how much of the body is left because it is too much.
func (c *conn) drain(h *head, n int) (used int, left int64, err error) {
	here := min(h.length, int64(len(c.in)-n))
	used, left = n+int(here), h.length-here
	if left == 0 && !h.chunked {
		return used, 0, nil
	}
	if err := c.flush(); err != nil {
		return 0, 0, err
	}
	if h.chunked {
		return c.drainChunks(h, n)
	}
	if h.expect {
		if err := c.deliver([]byte(proceed)); err != nil {
			return 0, 0, err
		}
	}
	c.deadline(true)
	read, err := io.CopyN(io.Discard, c, min(left, maxBody))
	return used, left - read, err
}

// output is where the replies of this turn are.
func (c *conn) output() *output {
	if c.o == nil {
		c.o, c.turn = c.s.outputs.Get().(*output), 0
		c.o.out = c.o.out[:0]
	}
	return c.o
}

// answer asks the tracker. The reply waits for the others of this turn, but they do not wait for a
// store that may be slow. It says whether the connection goes on.
func (c *conn) answer(h *head, close bool) (more bool, err error) {
	o := c.output()
	o.ask(h, c.remote)
	o.call.Unix = c.unix
	if !c.s.Tracker.Prompt(&o.call) {
		if err := c.flush(); err != nil {
			return false, err
		}
		o = c.output()
		o.ask(h, c.remote)
		o.call.Unix = c.unix
	}
	more, c.stream = c.s.answer(o, h, time.Now(), close)
	if c.turn++; more && c.turn < maxAnswers && len(o.out) < maxReplies {
		return true, nil
	}
	if err := c.flush(); err != nil || !more {
		return false, err
	}
	runtime.Gosched()
	return true, nil
}

// refuse answers what is no request that a tracker could see, as far as possible in the form that
// the client asked for.
func (c *conn) refuse(why refusal) {
	lines := c.in[:bytes.LastIndexByte(c.in, '\n')+1]
	if len(lines) == 0 {
		lines = c.in
	}
	var h head
	_ = h.parse(lines[:min(len(lines), maxHead)])
	o := c.output()
	o.ask(&h, c.remote)
	var resp tracker.Response
	resp, o.body = c.s.Tracker.Refuse(&o.call, string(why), o.body[:0])
	c.s.reply(o, &resp, &h, time.Now(), true)
	if c.flush() == nil {
		c.linger()
	}
}

// flush sends the replies of this turn.
func (c *conn) flush() error {
	o := c.o
	if o == nil {
		return nil
	}
	c.o = nil
	err := c.deliver(o.out)
	if o.small() {
		o.call = tracker.Call{}
		c.s.outputs.Put(o)
	}
	return err
}

// deliver writes b, and gives up a client that takes nothing of it for as long as Timeout. That is
// looked at a few times meanwhile, as progress is only seen there.
func (c *conn) deliver(b []byte) error {
	_, tls := c.nc.(interface{ NetConn() net.Conn })
	step := c.s.Timeout / 16
	if tls { // where a write that was cut short is the last
		step = c.s.Timeout
	}
	now := time.Now()
	for since := now; len(b) > 0; {
		end := since.Add(c.s.Timeout)
		if most := earlier(now.Add(2*step), end); c.takeBy.After(most) || c.takeBy.Before(earlier(now.Add(step), end)) {
			c.takeBy = most // not for every write: it costs as much as to parse a request
			_ = c.nc.SetWriteDeadline(most)
		}
		n, err := c.nc.Write(b)
		if err == nil {
			return nil
		}
		now, b = time.Now(), b[n:]
		switch {
		case tls || !errors.Is(err, os.ErrDeadlineExceeded):
			return err
		case n > 0, now.Sub(c.takeBy) >= late:
			since = now
		case !now.Before(end):
			return err
		}
	}
	return nil
}

func earlier(a, b time.Time) time.Time {
	if a.Before(b) {
		return a
	}
	return b
}

// linger gives the client a moment to read the reply before the connection ends: a close with
// bytes unread would reset it and could take the reply with it.
func (c *conn) linger() {
	if cw, ok := c.nc.(interface{ CloseWrite() error }); ok && cw.CloseWrite() == nil {
		_ = c.nc.SetReadDeadline(time.Now().Add(lingering))
		_, _ = io.CopyN(io.Discard, c.nc, 4*maxBody)
	}
}
