package announce_test

import (
	"cmp"
	"context"
	"errors"
	"net"
	"net/http"
	"net/netip"
	"sync"
	"testing"
	"time"

	"ntrack/announce"
	"ntrack/tracker"
)

// pipes is a network of net.Pipes with one tracker, which may be absent. Tests with virtual time
// use it, since real sockets would stop that time.
type pipes struct {
	mu     sync.Mutex
	accept chan net.Conn // nil while the tracker is absent
	server *http.Server
	port   uint16 // the port of origin of the last connection
	dialed int
	conns  map[*pipeConn]netip.Addr // from a tracker's end of a connection to the client's address
	lossy  map[netip.Addr]bool      // packets from and to these addresses get lost
}

// start starts the tracker h.
func (p *pipes) start(h http.Handler) {
	l := make(chan net.Conn)
	p.mu.Lock()
	p.accept, p.server = l, &http.Server{Handler: h}
	p.mu.Unlock()
	go p.server.Serve(pipeListener{l, make(chan struct{}), new(sync.Once)})
}

// stop stops the tracker and ends all connections.
func (p *pipes) stop() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.accept = nil
	p.server.Close()
}

// cut ends all connections from an address.
func (p *pipes) cut(from string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for c, a := range p.conns {
		if a == netip.MustParseAddr(from) {
			_ = c.Close()
			delete(p.conns, c)
		}
	}
}

// If lossy is true, packets from and to an address get lost from now on.
func (p *pipes) lose(from string, lossy bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.lossy == nil {
		p.lossy = make(map[netip.Addr]bool)
	}
	p.lossy[netip.MustParseAddr(from)] = lossy
}

// dials returns how often any client has connected.
func (p *pipes) dials() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.dialed
}

// runaway is more connections than the clients of any test make.
const runaway = 50_000

// count counts a connection. A client that connects again and again without a pause would stop
// virtual time. count makes such a client wait, so that the test fails and does not hang.
func (p *pipes) count(ctx context.Context) {
	p.mu.Lock()
	p.dialed++
	n := p.dialed
	p.mu.Unlock()
	if n > runaway {
		<-ctx.Done()
	}
}

func (p *pipes) dial(ctx context.Context, addr netip.Addr) (net.Conn, error) {
	p.count(ctx)
	p.mu.Lock()
	accept, lossy := p.accept, p.lossy[addr]
	p.port++
	from := netip.AddrPortFrom(addr, 10000+p.port)
	near, far := duplex(from)
	if p.conns == nil {
		p.conns = make(map[*pipeConn]netip.Addr)
	}
	p.conns[far] = addr
	p.mu.Unlock()
	switch {
	case lossy:
		<-ctx.Done()
		return nil, ctx.Err()
	case accept == nil:
		return nil, errors.New("connection refused")
	}
	select {
	case accept <- far:
		return near, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// client returns a client whose connections come from addr.
func (p *pipes) client(addr string) *announce.Client {
	return &announce.Client{Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return p.dial(ctx, netip.MustParseAddr(addr))
	}}
}

// both returns a client with an address of each family. If one is "", there is no route over that
// family.
func (p *pipes) both(addr4, addr6 string) *announce.Client {
	return announce.DialBoth(&announce.Client{Dial: func(ctx context.Context, network, _ string) (net.Conn, error) {
		addr := map[string]string{"tcp4": addr4, "tcp6": addr6, "tcp": cmp.Or(addr4, addr6)}[network]
		if addr == "" {
			p.count(ctx)
			return nil, &net.AddrError{Err: "network is unreachable"}
		}
		return p.dial(ctx, netip.MustParseAddr(addr))
	}})
}

// internet is a network with several trackers, by the names of their hosts.
type internet map[string]*pipes

// client returns a client whose connections come from addr.
func (i internet) client(addr string) *announce.Client {
	return &announce.Client{Dial: func(ctx context.Context, _, at string) (net.Conn, error) {
		host, _, _ := net.SplitHostPort(at)
		return i[host].dial(ctx, netip.MustParseAddr(addr))
	}}
}

// pipeConn is one end of a connection. Each of its two directions can be closed separately, as with
// TCP.
type pipeConn struct {
	net.Conn // for reading
	out      net.Conn
	from     netip.AddrPort
}

// duplex returns the two ends of a connection from an endpoint.
func duplex(from netip.AddrPort) (near, far *pipeConn) {
	r1, w1 := net.Pipe()
	r2, w2 := net.Pipe()
	return &pipeConn{r1, w2, from}, &pipeConn{r2, w1, from}
}

func (c *pipeConn) Write(b []byte) (int, error)        { return c.out.Write(b) }
func (c *pipeConn) CloseWrite() error                  { return c.out.Close() }
func (c *pipeConn) SetWriteDeadline(t time.Time) error { return c.out.SetWriteDeadline(t) }
func (c *pipeConn) LocalAddr() net.Addr                { return net.TCPAddrFromAddrPort(c.from) }
func (c *pipeConn) RemoteAddr() net.Addr               { return net.TCPAddrFromAddrPort(c.from) }

// Close closes the direction to this end first, so that it reads nothing that the other end sends
// when it notices.
func (c *pipeConn) Close() error {
	_ = c.Conn.Close()
	return c.out.Close()
}

func (c *pipeConn) SetDeadline(t time.Time) error {
	_ = c.out.SetDeadline(t)
	return c.Conn.SetDeadline(t)
}

type pipeListener struct {
	conns  chan net.Conn
	closed chan struct{}
	once   *sync.Once
}

func (l pipeListener) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.closed:
		return nil, net.ErrClosed
	}
}

func (l pipeListener) Close() error {
	l.once.Do(func() { close(l.closed) })
	return nil
}

func (l pipeListener) Addr() net.Addr { return &net.TCPAddr{} }

// newPipes returns a network with a tracker that runs until the test ends.
func newPipes(t *testing.T) *pipes {
	p := new(pipes)
	p.start(tracker.Handler(&tracker.Tracker{Interval: time.Minute}))
	t.Cleanup(p.stop)
	return p
}

// polled is a tracker without event streams.
func polled(t *tracker.Tracker) http.Handler {
	h := tracker.Handler(t)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		r.Header.Set("Accept", "application/json")
		h.ServeHTTP(w, r)
	})
}

// serving has the two kinds of trackers: with event streams, and without.
var serving = map[string]func(*tracker.Tracker) http.Handler{"stream": tracker.Handler, "poll": polled}
