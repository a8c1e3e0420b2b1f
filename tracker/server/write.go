package server

import (
	"errors"
	"io"
	"os"
	"time"

	"ntrack/tracker"
)

// flush ends the batch and sends its replies.
func (c *conn) flush() error {
	b := c.b
	if b == nil {
		return nil
	}
	c.b = nil
	err := c.write(b.out)
	if b.reusable() {
		b.call = tracker.Call{}
		c.s.buffers.Put(b)
	}
	if err == errNoMemory {
		// None of the replies was sent. The connection then ends without linger, because that takes time, and
		// its memory is needed now.
		_ = c.write([]byte(noMemory))
	}
	return err
}

// write sends b. It fails if the client reads nothing for as long as Timeout. A blocked write does
// not show how much the client has read. So write interrupts it several times within Timeout.
func (c *conn) write(b []byte) error {
	evictable, err := c.beginWrite(len(b))
	if err != nil {
		return err
	}
	err = c.writeAll(b, evictable)
	if endErr := c.endWrite(evictable); err == nil {
		err = endErr
	}
	return err
}

// writeAll is write for a connection that may be evicted if evictable is true.
func (c *conn) writeAll(b []byte, evictable bool) error {
	tls := c.tls()
	step := c.s.Timeout / 16
	if tls { // after a write that missed its deadline, TLS allows no other
		step = c.s.Timeout
	}
	now := time.Now()
	for since := now; len(b) > 0; {
		end := since.Add(c.s.Timeout)
		earliest, latest := earlier(now.Add(step), end), earlier(now.Add(2*step), end)
		if c.writeDeadline.Before(earliest) || c.writeDeadline.After(latest) {
			c.writeDeadline = latest // not set for every write, because that takes as long as to parse a request
			_ = c.nc.SetWriteDeadline(latest)
		}
		n, err := c.nc.Write(b)
		if err == nil {
			return nil
		}
		now, b = time.Now(), b[n:]
		switch {
		case tls || !errors.Is(err, os.ErrDeadlineExceeded), evictable && !c.entry.queued():
			return err
		case n > 0, now.Sub(c.writeDeadline) >= stoppedTime:
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

// linger lets the client read the last reply: it reads and ignores what the client still sends, for
// at most lingerTime. If the server closed the connection without reading these bytes, the system
// would reset it, and the client might lose the reply.
func (c *conn) linger() {
	if c.turn != nil {
		c.turn.end() // it computes nothing more
	}
	if c.endSending() {
		_, _ = io.CopyN(io.Discard, c.nc, 4*maxBody)
	}
}

// endSending closes the connection for sending only, and sets the read deadline to lingerTime from
// now. It returns false if the connection cannot be closed for sending only.
func (c *conn) endSending() bool {
	cw, ok := c.nc.(interface{ CloseWrite() error })
	if !ok || cw.CloseWrite() != nil {
		return false
	}
	_ = c.nc.SetReadDeadline(time.Now().Add(lingerTime))
	return true
}

// errNoMemory ends a connection whose weight has no room.
var errNoMemory = errors.New("the connections take too much memory")

// beginWrite counts n bytes that are about to be sent. If many bytes may then be unread, the
// connection may be evicted during the write. The caller must call endWrite after the write, unless
// there is an error.
func (c *conn) beginWrite(n int) (evictable bool, err error) {
	if c.unread += n; c.unread <= largeUnread || c.verdict != admitted {
		return false, nil
	}
	if err := c.weigh(n); err != nil {
		c.unread -= n
		return false, err
	}
	if c.entry.evicted || c.entry.queued() {
		return false, nil
	}
	c.enqueueIn(&c.s.writing)
	return true, nil
}

// endWrite asks the system how much is unread. It returns an error if the connection was evicted.
func (c *conn) endWrite(evictable bool) error {
	if evictable {
		if c.entry.dequeue(); c.entry.evicted {
			return ErrClosed
		}
	}
	if c.unread <= largeUnread || c.verdict != admitted {
		return nil
	}
	if c.unread = 0; c.system() != nil {
		c.unread = unackedBytes(c.system())
	}
	return c.weigh(0)
}

// weigh sets the weight of a connection that is about to send n bytes.
func (c *conn) weigh(n int) error {
	weight := int64(weightGoroutine)
	if c.tls() {
		weight = weightTLS
	}
	if c.unread > largeUnread {
		weight += unreadWeight(c.unread)
	}
	if !c.s.limiter.setWeight(&c.account, weight+int64(n)) {
		return errNoMemory
	}
	return nil
}
