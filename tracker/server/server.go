// Package server serves a [tracker.Tracker] over HTTP/1. It owns the listeners, the connections and
// the shutdown. It does what [tracker.Handler] does under net/http, in a fraction of the time and
// memory. It refuses parts of HTTP that this protocol does not need, such as folded headers.
//
//	s := &server.Server{Tracker: &tracker.Tracker{}}
//	err := s.Serve(listener)
//
// Serve accepts the connections of a listener in one of two ways:
//
//   - A goroutineAcceptor works with every listener. It starts a goroutine for each connection. The
//     goroutine runs conn.serveRequests.
//   - An epollAcceptor is for TCP without TLS on Linux. It starts a few workers. A worker accepts
//     and serves many connections in one goroutine, with worker.serveConn.
//
// Both ways parse a request with head.parseHead, and reply to it with Server.serveCall, which calls
// the tracker. A worker serves only a plain request, one without a body, and only if the tracker
// answers at once. If a connection sends any other request, the worker hands the connection over to
// a goroutine for good. The goroutine runs conn.serveRequests. If a reply is an event stream, the
// goroutine goes on with conn.serveStream, and a worker with worker.startStream.
//
// If the store may block, a worker parks each connection that has sent a request (worker.park): a
// goroutine makes the replies to a batch, and the worker sends them. A parked connection is not idle, and
// cannot be evicted. The tracker bounds how many calls wait for the store, and refuses the others.
//
// If each announce has a connection of its own, workers need about half the CPU time of goroutines.
// An idle connection or stream of a worker has no stack and no buffer. Otherwise both ways behave
// alike.
package server

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
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
	maxBody = 64 << 10               // bytes of a request's body that are read and ignored
	// The server handles the requests of a connection in batches, and serves other connections
	// between them. It sends the replies of a batch in one write. A batch ends after maxBatch
	// requests, or when its replies have maxBatchBytes.
	maxBatch      = 16
	maxBatchBytes = 64 << 10
	// If the tracker may wait, a batch also ends when it has taken maxBatchTime, so that the replies so
	// far need not wait for others.
	maxBatchTime = 10 * time.Millisecond
	firstRead    = 2 << 10 // bytes of the first buffer; a usual request has a few hundred
	// lingerTime is how long the server still reads after the last reply of a connection. See
	// conn.linger.
	lingerTime = 500 * time.Millisecond
	// If the server notices a deadline at least stoppedTime too late, the system had stopped this
	// process for a while. Then the client gets more time.
	stoppedTime = time.Second
)

// A Server serves connections. Tracker must be set; the other fields have useful zero values. Do
// not copy a Server, and do not change its fields once it serves.
type Server struct {
	Tracker *tracker.Tracker
	// Timeout is how long a request may take from its first byte to its last. It is also how long
	// a client may stop reading a reply. 0 is DefaultTimeout.
	Timeout time.Duration
	// Idle is how long a connection may stay without a request. 0 is DefaultIdle.
	Idle time.Duration
	// MaxConns is how many connections may be open. If there are that many, a new connection
	// evicts the one that has been idle longest. If none is idle, the new one gets a 503. 0 is
	// DefaultMaxConns, less than 0 is no limit. On Unix there is another limit: about nine tenths
	// of the files that the process may have open, or half if they are few. Set a lower limit if
	// the process needs many files for something else.
	MaxConns int
	// MaxMemory is how many bytes all connections may take together, in the process and in the system,
	// by the weights in memory.go. If there is no room for a new one, or for what a connection keeps,
	// others are evicted. If that is not enough, the connection gets a 503 or ends. The default of
	// MaxConns is as many idle connections as have room. 0 is no limit.
	MaxMemory int64
	// MaxConnsPerAddr is how many connections one IPv4 address or IPv6 /64 may have. 0 is
	// DefaultMaxConnsPerAddr, or a quarter of MaxConns if that is less. Less than 0 is no limit.
	// An address may also open only 1000 connections in a second, and 10,000 at once; one over TLS
	// counts as 10. Unix sockets and the Tracker's Exempt and Proxies have no limit.
	MaxConnsPerAddr int
	// ProxyProtocol makes each connection of the Tracker's Proxies, and each by a Unix socket, begin
	// with a header of the PROXY protocol, version 1 or 2, also before TLS. The address and port in
	// it replace those of the connection. X-Forwarded-For counts only if that address is itself one
	// of the Proxies. If the header says that the proxy has no client, as in a health check, the
	// requests of the connection only look. A connection ends if its header is malformed, or
	// does not come within Timeout. Other connections have no header.
	ProxyProtocol bool
	// Challenge returns the body of the reply to a GET of this target, or nil if the Tracker answers
	// it. It is for the challenge of an authority for certificates (RFC 8555 section 8.3). It may be
	// nil.
	Challenge func(target []byte) []byte
	// Log gets an error for each panic. A panic ends only the connection on which it happened. Log
	// also gets a warning if a connection exceeds a limit, or if a proxy sends no PROXY header, at
	// most once a minute for each limit. A record has the address of a client only if Log is enabled
	// for debugging. nil logs nothing.
	Log *slog.Logger

	streamTCPTimeout time.Duration // TCP_USER_TIMEOUT of streams; only a test changes it

	once         sync.Once
	buffers      sync.Pool   // of *buffers
	inputs       sync.Pool   // of *[]byte
	draining     atomic.Bool // a connection ends with its next reply
	shuttingDown atomic.Bool
	aborted      atomic.Bool // Shutdown does not wait any longer
	date         atomic.Pointer[date]
	limiter      connLimiter
	silent       connQueue // connections with a goroutine that have not sent a request yet
	idle         connQueue // connections with a goroutine that have had a reply and wait for a request
	turns        turns
	unread       connQueue // connections as in idle, but their client has not read the replies
	writing      connQueue // connections with a goroutine that send more than a little
	begun        connQueue // connections with a goroutine that have sent a part of a request
	mu           sync.Mutex
	conns        map[*conn]struct{} // connections with a goroutine
	acceptors    map[acceptor]struct{}
	panics       atomic.Uint64
	outOfFiles   atomic.Uint64
	latency      latency
	mayWait      bool // see Tracker.MayWait
	calls        callTimes
	active       sync.WaitGroup // goroutines that Shutdown waits for
}

// An acceptor accepts the connections of one listener.
type acceptor interface {
	// acceptConns accepts connections until an accept fails or Close is called.
	acceptConns() error
	// Close makes the acceptor look at shuttingDown and aborted of the Server. It may be called
	// again.
	io.Closer
}

// ErrClosed is what Serve returns after Shutdown.
var ErrClosed = errors.New("server: closed")

func (s *Server) init() {
	s.inputs.New = func() any { b := make([]byte, 0, firstRead); return &b }
	s.buffers.New = func() any { return new(buffers) }
	s.conns, s.acceptors = make(map[*conn]struct{}), make(map[acceptor]struct{})
	if s.Log == nil {
		s.Log = slog.New(slog.DiscardHandler)
	}
	if s.Timeout <= 0 {
		s.Timeout = DefaultTimeout
	}
	if s.Idle <= 0 {
		s.Idle = DefaultIdle
	}
	if s.streamTCPTimeout == 0 {
		s.streamTCPTimeout = defaultStreamTCPTimeout
	}
	s.turns = newTurns()
	s.mayWait = s.Tracker.MayWait()
	s.calls.init()
	s.limiter.init(s)
	s.limiter.addQueue(&s.silent, silentConns)
	s.limiter.addQueue(&s.idle, idleConns)
	s.limiter.addQueue(&s.begun, begunConns)
	s.limiter.addQueue(&s.unread, unreadConns)
	s.limiter.addQueue(&s.writing, unreadConns)
}

// Serve accepts connections from l until an accept fails or Shutdown is called. Then it closes l
// and returns the error, or ErrClosed.
func (s *Server) Serve(l net.Listener) error { return s.serve(l, nil) }

// ServeTLS is Serve over TLS. config decides about certificates; its NextProtos should have
// "http/1.1" and no later version of HTTP.
func (s *Server) ServeTLS(l net.Listener, config *tls.Config) error { return s.serve(l, config) }

// serve serves l, over TLS unless config is nil.
func (s *Server) serve(l net.Listener, config *tls.Config) error {
	s.once.Do(s.init)
	defer l.Close()
	s.mu.Lock()
	if s.shuttingDown.Load() {
		s.mu.Unlock()
		return ErrClosed
	}
	var a acceptor
	if config == nil {
		a = s.newEpollAcceptor(l)
	}
	if a == nil {
		s.active.Add(1)
		a = &goroutineAcceptor{l, s, config}
	}
	s.acceptors[a] = struct{}{}
	s.mu.Unlock()
	defer func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		if !s.shuttingDown.Load() { // else Shutdown may still need it
			delete(s.acceptors, a)
		}
	}()
	return a.acceptConns()
}

// A goroutineAcceptor starts a goroutine for each connection. Any other acceptor must behave like
// it.
type goroutineAcceptor struct {
	net.Listener
	s   *Server
	tls *tls.Config // nil without TLS
}

func (a *goroutineAcceptor) acceptConns() error {
	defer a.s.active.Done()
	for pause := time.Duration(0); ; {
		nc, err := a.Accept()
		switch {
		case err == nil:
			pause = 0
			a.s.startConn(nc, a.tls)
		case a.s.shuttingDown.Load():
			return ErrClosed
		case AcceptsLater(err):
			// Usually no file descriptor is free. The next connection that ends frees one. But
			// memory, the network or a firewall may be the reason, too.
			a.s.logLimit(limitFiles, netip.AddrPort{}, "no connection can be accepted: %v", err)
			pause = min(max(2*pause, 5*time.Millisecond), time.Second)
			time.Sleep(pause)
		default:
			return err
		}
	}
}

// AcceptsLater reports whether an accept that failed with err may succeed later: descriptors or memory
// may be free then, or the network or a firewall may have changed.
func AcceptsLater(err error) bool {
	if acceptsLater(err) {
		return true
	}
	t, ok := errors.AsType[interface {
		error
		Temporary() bool
	}](err)
	return ok && t.Temporary()
}

// startConn serves a connection in a goroutine, or refuses or drops it. config is nil without TLS.
func (s *Server) startConn(nc net.Conn, config *tls.Config) {
	c := &conn{s: s}
	unix := false
	switch a := nc.RemoteAddr().(type) {
	case *net.TCPAddr:
		c.remote = a.AddrPort()
	case *net.UnixAddr:
		unix = true
	case nil:
	default:
		c.remote, _ = netip.ParseAddrPort(a.String())
	}
	c.via = s.viaOf(c.remote, unix)
	c.turn = &turnConn{Conn: nc, turns: s.turns}
	nc = c.turn
	if config != nil {
		if c.via == headerDue {
			c.beforeTLS = &unreadConn{Conn: nc}
			nc = c.beforeTLS
		}
		nc = tls.Server(nc, config)
	}
	c.nc = nc
	if raw := c.system(); raw != nil {
		setTCPOptions(raw, s.Timeout)
	}
	weight := int64(weightGoroutine)
	if c.tls() {
		weight = weightTLS
	}
	var exceeded limit
	c.verdict, exceeded = s.admitConn(c.remote, &c.account, weight)
	switch {
	case c.verdict == admitted:
	case c.tls(): // a 503 would need a handshake first
		s.releaseConn(c.remote, c.via, c.verdict, &c.account)
		_ = nc.Close()
		return
	case c.verdict == refused:
		c.unsent, c.closeAfter = []byte(exceeded.reply()), true
	case c.verdict == dropped:
		_ = nc.SetWriteDeadline(time.Now().Add(time.Second))
		_, _ = io.WriteString(nc, exceeded.reply())
		_ = nc.Close()
		return
	}
	s.mu.Lock()
	s.register(c) // allowed during Shutdown, which still waits for the acceptor
	s.mu.Unlock()
	if c.verdict == admitted {
		c.entry.owner, c.isSilent = c, true
		s.silent.enqueue(&c.entry, time.Now())
	}
	go c.serveRequests()
}

// register makes Shutdown wait for c. s.mu is locked.
func (s *Server) register(c *conn) {
	s.conns[c] = struct{}{}
	s.active.Add(1)
}

// Drain prepares a Shutdown, which the caller calls after it. For d it goes on to serve everything, but
// ends each connection after its next reply. So clients can move to another server, if a load
// balancer knows that this one is about to end. Event streams end shortly before d is over, as in
// Shutdown. If ctx ends, Drain returns at once.
func (s *Server) Drain(ctx context.Context, d time.Duration) {
	s.once.Do(s.init)
	s.draining.Store(true)
	last := min(d/4, 2*time.Second) // not longer, because a peer that a stream holds leaves with it
	for _, stage := range []struct {
		lasts time.Duration
		after func()
	}{{d - last, s.Tracker.EndStreams}, {last, func() {}}} {
		select {
		case <-ctx.Done():
			return
		case <-time.After(stage.lasts):
			stage.after()
		}
	}
}

// Check returns nil if the server works: the tracker answers, and each worker goes on to serve its
// connections. Otherwise it returns an error when ctx ends. It does not use the network.
func (s *Server) Check(ctx context.Context) error {
	s.once.Do(s.init)
	var pending []<-chan struct{}
	s.mu.Lock()
	for a := range s.acceptors {
		if c, ok := a.(interface{ check() []<-chan struct{} }); ok {
			pending = append(pending, c.check()...)
		}
	}
	s.mu.Unlock()
	answered := make(chan error, 1)
	go func() { answered <- s.Tracker.Check(ctx) }()
	select {
	case err := <-answered:
		if err != nil {
			return fmt.Errorf("the store of peers: %w", err)
		}
	case <-ctx.Done():
		return errors.New("the tracker does not answer")
	}
	for _, done := range pending {
		select {
		case <-done:
		case <-ctx.Done():
			return errors.New("a worker does not serve its connections")
		}
	}
	return nil
}

// Shutdown stops accepting connections. It closes idle connections at once and the others after
// their reply, ends the tracker's event streams, and waits until all connections are closed. A new
// connection has a second from its beginning to send a request. When ctx ends, Shutdown closes the
// rest and returns ctx.Err().
//
// Connections that nobody has accepted yet are not lost if another process has a copy of the
// listening socket, and accepts them later.
func (s *Server) Shutdown(ctx context.Context) error {
	s.once.Do(s.init)
	s.mu.Lock()
	s.draining.Store(true)
	s.shuttingDown.Store(true)
	for a := range s.acceptors {
		_ = a.Close()
	}
	s.mu.Unlock()
	for s.idle.evictOldest() != nil || s.unread.evictOldest() != nil {
	}
	s.silent.each(func(e *queueEntry) { e.owner.(*conn).limitSilence() })
	s.Tracker.EndStreams()
	done := make(chan struct{})
	go func() {
		s.active.Wait()
		close(done)
	}()
	select {
	case <-done:
		s.calls.abort()
		return nil
	case <-ctx.Done():
	}
	s.aborted.Store(true)
	s.calls.abort()
	s.mu.Lock()
	for a := range s.acceptors {
		_ = a.Close()
	}
	for c := range s.conns {
		_ = c.nc.Close()
	}
	s.mu.Unlock()
	return ctx.Err()
}

func (s *Server) logPanic(remote netip.AddrPort, p any) {
	s.panics.Add(1)
	s.log(slog.LevelError, "panic while serving a request", remote, "panic", fmt.Sprint(p), "stack", string(debug.Stack()))
}

// log writes a record to Log. Only a log for debugging gets the address remote, because addresses
// tell who uses which tracker.
func (s *Server) log(level slog.Level, message string, remote netip.AddrPort, args ...any) {
	if s.Log.Enabled(context.Background(), slog.LevelDebug) && remote.IsValid() {
		args = append(args, "remote", remote.String())
	}
	s.Log.Log(context.Background(), level, message, args...)
}
