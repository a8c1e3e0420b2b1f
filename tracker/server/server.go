// Package server is the lean door to a tracker: HTTP/1 for this one protocol over net.Listener. It
// does what tracker.Handler does under net/http, in a fraction of the time and memory, and refuses
// what it has no use for, such as folded headers. For TLS give it a tls.NewListener.
//
// Each connection has a goroutine. Only on Linux, where the listener is a *net.TCPListener, a few
// goroutines answer all of them, and a connection gets one of its own with the first request that
// is anything but plain, or that the tracker may have to wait for (see [tracker.Tracker.Prompt]).
// That takes about half the time where each announce has a connection of its own, and a
// connection that idles takes no stack and no buffer. Nothing else differs.
//
//	s := &server.Server{Tracker: &tracker.Tracker{}}
//	err := s.Serve(listener)
package server

import (
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"

	"ntrack/announce/wire"
	"ntrack/tracker"
)

// Defaults of a Server.
const (
	DefaultTimeout = 10 * time.Second
	DefaultIdle    = 2 * time.Minute
)

const (
	maxHead = wire.MaxTarget + 8<<10 // request line and headers
	maxBody = 64 << 10               // of a request; it is read and ignored
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
	if raw := c.system(); raw != nil {
		setUserTimeout(raw, s.Timeout)
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

func (s *Server) panicked(remote netip.AddrPort, p any) {
	if s.Logf != nil {
		s.Logf("panic while serving %s: %v\n%s", remote, p, debug.Stack())
	}
}
