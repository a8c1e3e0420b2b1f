package door

import (
	"net"
	"syscall"
	"time"
)

// userTimeout is how long a client may leave unacknowledged what was sent to it: one whose packets
// are lost is gone then. Heartbeats see to it that something is sent.
const userTimeout = 45 * time.Second

// pump goes on where the first reply of an event stream ends. This goroutine reads, which is how
// it learns that the client is gone, and another is there while there is something to write.
func (c *conn) pump() {
	raw := c.nc
	if t, ok := raw.(interface{ NetConn() net.Conn }); ok { // TLS
		raw = t.NetConn()
	}
	if sc, ok := raw.(syscall.Conn); ok {
		setUserTimeout(sc, c.s.userTimeout)
	}
	_ = c.nc.SetReadDeadline(time.Time{})
	c.write()
	var ignored [64]byte // what a client sends after its request, within reason
	for n := 0; n < maxBody; {
		k, err := c.nc.Read(ignored[:])
		if n += k; err != nil {
			return
		}
	}
}

// wake is called by the stream, before its Close, when there is something to write.
func (c *conn) wake() {
	c.s.active.Add(1)
	go func() {
		defer c.s.active.Done()
		defer func() {
			if p := recover(); p != nil {
				c.panicked(p)
				_ = c.nc.Close()
			}
		}()
		c.write()
	}()
}

// write sends what the stream has, and ends the connection with it.
func (c *conn) write() {
	o := c.s.outputs.Get().(*output)
	for {
		out, live := c.stream.Next(o.out[:0], c.wake)
		o.out = out
		var err error
		if len(out) > 0 {
			err = c.deliver(out)
		}
		if err != nil || !live {
			_ = c.nc.Close()
		}
		if err != nil || !live || len(out) == 0 {
			break
		}
	}
	if o.small() {
		c.s.outputs.Put(o)
	}
}
