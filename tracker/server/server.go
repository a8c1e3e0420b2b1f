// Package server serves a [tracker.Tracker] over HTTP/1. It owns the listeners, the connections and
// the shutdown. It does what [tracker.Handler] does under net/http, in a fraction of the time and
// memory. It refuses parts of HTTP that this protocol does not need, such as folded headers. For
// TLS give it a tls.NewListener.
//
//	s := &server.Server{Tracker: &tracker.Tracker{}}
//	err := s.Serve(listener)
//
// What calls what: Serve accepts the connections of a listener in one of two ways. The reference
// way works with every listener: goroutineAcceptor.acceptConns starts a goroutine for each
// connection, which runs conn.serveRequests. For TCP without TLS on Linux,
// epollAcceptor.acceptConns starts a few workers. A worker accepts and serves many connections in
// one goroutine, in worker.serveConn. Both ways parse with head.parseHead and reply with
// Server.serveCall, which calls the tracker. A worker serves only a plain request that the
// tracker answers at once. With the first other request it hands the connection over to a goroutine
// that runs conn.serveRequests, and never gets it back. An event stream always has a goroutine and
// is sent by conn.serveStream.
//
// Workers take about half the time if each announce has a connection of its own, and an idle
// connection has no stack and no buffer. In all else the two ways behave alike.
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

// Defaults of the times of a Server.
const (
	DefaultTimeout = 10 * time.Second
	DefaultIdle    = 2 * time.Minute
)

const (
	maxHead = wire.MaxTarget + 8<<10 // bytes of a request line and header fields
	maxBody = 64 << 10               // bytes of a request's body, which is read and ignored
	// A connection that sends many requests has them served in batches, and other connections are
	// served in between. The replies of a batch are sent in one write. A batch ends after
	// maxBatch requests, or when its replies have maxBatchBytes.
	maxBatch      = 16
	maxBatchBytes = 64 << 10
	firstRead     = 2 << 10 // bytes; a usual request has a few hundred
	lingerTime    = 500 * time.Millisecond
	// A deadline that is overdue by stoppedTime shows that this process was stopped for a while.
	stoppedTime = time.Second
)

// A Server serves connections. Tracker must be set; the other fields have useful zero values. It
// must not be changed once it serves, nor copied.
type Server struct {
	Tracker *tracker.Tracker
	// Timeout is how long a request may take from its first byte to its last, at whatever rate
	// they arrive. It is also how long a client may read nothing of a reply. 0 is
	// DefaultTimeout.
	Timeout time.Duration
	// Idle is how long a connection may stay without a request. 0 is DefaultIdle.
	Idle time.Duration
	// MaxConns is how many connections may be open. One more takes the place of the connection
	// that has been idle longest. If none is idle, it is answered 503. 0 is DefaultMaxConns, less
	// than 0 is no limit. On Unix the files that the process may have open are a limit, too: about
	// nine tenths of them, or half if they are few, are for connections. Set a lower limit in a
	// process that needs more files for something else.
	MaxConns int
	// MaxConnsPerAddr is how many of these one IPv4 address or IPv6 /64 may have. 0 is
	// DefaultMaxConnsPerAddr, or a quarter of MaxConns if that is less. Less than 0 is no limit.
	// Loopback addresses, Unix sockets and the Tracker's Proxies have no limit.
	MaxConnsPerAddr int
	// Logf logs each panic, which ends its connection and no other. Once a minute at most it logs
	// that a connection was refused. nil logs nothing.
	Logf func(format string, args ...any)

	userTimeout time.Duration // of streams; only a test changes it

	once      sync.Once
	buffers   sync.Pool // of *buffers
	inputs    sync.Pool // of *[]byte
	ending    atomic.Bool
	date      atomic.Pointer[date]
	limits    limits
	silent    connQueue // connections with a goroutine that have not sent a request yet
	idle      connQueue // connections with a goroutine that have had a reply and wait
	mu        sync.Mutex
	conns     map[*conn]struct{} // connections with a goroutine
	acceptors map[acceptor]struct{}
	active    sync.WaitGroup // goroutines that Shutdown waits for
}

// An acceptor accepts the connections of one listener.
type acceptor interface {
	// acceptConns accepts connections until that fails or Close is called.
	acceptConns() error
	io.Closer
}

// ErrClosed is what Serve returns after Shutdown.
var ErrClosed = errors.New("server: closed")

func (s *Server) init() {
	s.inputs.New = func() any { b := make([]byte, 0, firstRead); return &b }
	s.buffers.New = func() any { return new(buffers) }
	s.conns, s.acceptors = make(map[*conn]struct{}), make(map[acceptor]struct{})
	if s.Timeout <= 0 {
		s.Timeout = DefaultTimeout
	}
	if s.Idle <= 0 {
		s.Idle = DefaultIdle
	}
	if s.userTimeout == 0 {
		s.userTimeout = streamUserTimeout
	}
	s.limits.init(s)
	s.limits.addQueue(&s.silent, false)
	s.limits.addQueue(&s.idle, true)
}

// Serve accepts connections from l until that fails or Shutdown is called. It closes l.
func (s *Server) Serve(l net.Listener) error {
	s.once.Do(s.init)
	defer l.Close()
	s.mu.Lock()
	if s.ending.Load() {
		s.mu.Unlock()
		return ErrClosed
	}
	a := s.newEpollAcceptor(l)
	if a == nil {
		a = &goroutineAcceptor{l, s}
	}
	s.acceptors[a] = struct{}{}
	s.mu.Unlock()
	defer func() {
		s.mu.Lock()
		delete(s.acceptors, a)
		s.mu.Unlock()
	}()
	return a.acceptConns()
}

// A goroutineAcceptor starts a goroutine for each connection. It is the reference for any other
// acceptor, which hands over to it what it cannot serve itself.
type goroutineAcceptor struct {
	net.Listener
	s *Server
}

func (a *goroutineAcceptor) acceptConns() error {
	for pause := time.Duration(0); ; {
		nc, err := a.Accept()
		switch {
		case err == nil:
			pause = 0
			a.s.startConn(nc)
		case a.s.ending.Load():
			return ErrClosed
		case isTemporary(err):
			// Mostly the process is out of file descriptors. Connections that end return theirs.
			a.s.logLimit(limitFiles, "no connection can be accepted: %v", err)
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

// startConn serves a connection in a goroutine, or refuses it.
func (s *Server) startConn(nc net.Conn) {
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
	c.admission = s.admitConn(c.remote)
	switch {
	case c.admission == admitted:
	case c.tls(): // a reply would need a handshake
		s.releaseConn(c.remote, c.admission)
		_ = nc.Close()
		return
	case c.admission == refused:
		c.unsent, c.last = []byte(tooMany), true
	case c.admission == rejected:
		_ = nc.SetWriteDeadline(time.Now().Add(time.Second))
		_, _ = io.WriteString(nc, tooMany)
		_ = nc.Close()
		return
	}
	s.mu.Lock()
	if s.ending.Load() { // Shutdown may be waiting already, so no goroutine may start
		s.mu.Unlock()
		s.releaseConn(c.remote, c.admission)
		_ = nc.Close()
		return
	}
	s.waitFor(c)
	s.mu.Unlock()
	if c.unsent == nil {
		c.entry.owner, c.isSilent = c, true
		s.silent.enqueue(&c.entry, time.Now())
	}
	go c.serveRequests()
}

// waitFor makes Shutdown wait for c. s.mu is locked.
func (s *Server) waitFor(c *conn) {
	s.conns[c] = struct{}{}
	s.active.Add(1)
}

// Shutdown stops accepting. It closes idle connections at once and the others after their reply,
// ends the tracker's event streams, and waits for all of them. When ctx ends, it closes what is
// left.
func (s *Server) Shutdown(ctx context.Context) error {
	s.once.Do(s.init)
	s.mu.Lock()
	s.ending.Store(true)
	for a := range s.acceptors {
		_ = a.Close()
	}
	s.mu.Unlock()
	for s.silent.evictOldest() || s.idle.evictOldest() {
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
	for c := range s.conns {
		_ = c.nc.Close()
	}
	s.mu.Unlock()
	return ctx.Err()
}

func (s *Server) logPanic(remote netip.AddrPort, p any) {
	if s.Logf != nil {
		s.Logf("panic while serving %s: %v\n%s", remote, p, debug.Stack())
	}
}
