package server

import (
	"errors"
	"net"
	"runtime"
)

// turns limits how many connections with a goroutine compute at the same time: parse, serve or
// encrypt. Go's scheduler treats all goroutines alike. So without this limit the thousands of
// clients of a worker would wait for thousands of goroutines with one client each.
type turns chan struct{}

// newTurns allows as many connections as there are CPUs.
func newTurns() turns { return make(turns, runtime.GOMAXPROCS(0)) }

func (t turns) begin() {
	select {
	case t <- struct{}{}:
	default:
		t <- struct{}{}
		runtime.Gosched() // a worker that became ready earlier goes first
	}
}

func (t turns) end() { <-t }

// A turnConn is a connection whose goroutine needs a turn to compute. It gives up the turn while it
// reads or writes. Below TLS it does so, too. Only the goroutine that has the turn may use it.
type turnConn struct {
	net.Conn
	turns turns
	taken bool
}

// begin waits for a turn.
func (c *turnConn) begin() {
	c.turns.begin()
	c.taken = true
}

// end gives up the turn, and says whether the connection had one.
func (c *turnConn) end() (had bool) {
	if had = c.taken; had {
		c.taken = false
		c.turns.end()
	}
	return had
}

func (c *turnConn) Read(b []byte) (int, error) {
	if c.end() {
		defer c.begin()
	}
	return c.Conn.Read(b)
}

func (c *turnConn) Write(b []byte) (int, error) {
	if c.end() {
		defer c.begin()
	}
	return c.Conn.Write(b)
}

// CloseWrite closes the connection for sending only, if that is possible.
func (c *turnConn) CloseWrite() error {
	if cw, ok := c.Conn.(interface{ CloseWrite() error }); ok {
		return cw.CloseWrite()
	}
	return errors.ErrUnsupported
}
