package announce_test

import (
	"context"
	"net"
	"net/http"
	"net/netip"
	"sync"
	"syscall"
	"testing"
	"time"

	"ntrack/announce"
	"ntrack/tracker"
)

// pipes is a network inside a synctest bubble, with one tracker on it that can be away: virtual
// time only passes where nothing waits for a real socket.
type pipes struct {
	mu     sync.Mutex
	accept chan net.Conn // nil while the tracker is away
	server *http.Server
	port   uint16 // the last port of origin given
}

// start begins a run of the tracker, which knows nobody.
func (p *pipes) start(h http.Handler) {
	l := make(chan net.Conn)
	p.mu.Lock()
	p.accept, p.server = l, &http.Server{Handler: h}
	p.mu.Unlock()
	go p.server.Serve(pipeListener{l, make(chan struct{}), new(sync.Once)})
}

// stop ends it, and every connection with it.
func (p *pipes) stop() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.accept = nil
	p.server.Close()
}

// client is one whose connections come from addr.
func (p *pipes) client(addr string) *announce.Client {
	return &announce.Client{Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
		p.mu.Lock()
		accept := p.accept
		p.port++
		from := netip.AddrPortFrom(netip.MustParseAddr(addr), 10000+p.port)
		p.mu.Unlock()
		if accept == nil {
			return nil, syscall.ECONNREFUSED
		}
		near, far := net.Pipe()
		select {
		case accept <- pipeConn{far, from}:
			return pipeConn{near, from}, nil
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}}
}

type pipeConn struct {
	net.Conn
	from netip.AddrPort
}

func (c pipeConn) LocalAddr() net.Addr  { return net.TCPAddrFromAddrPort(c.from) }
func (c pipeConn) RemoteAddr() net.Addr { return net.TCPAddrFromAddrPort(c.from) }

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
