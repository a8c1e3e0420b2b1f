package server

import (
	"bytes"

	"golang.org/x/sys/unix"
)

// takes returns the weight that the connection should have now.
func (c *polledConn) takes() int64 {
	n := int64(weightPolled)
	if c.unread > smallUnread {
		n += unreadWeight(int(c.unread))
	}
	if !c.drained && c.stream == nil {
		n += receiveBuffer
	}
	if c.parked {
		n += weightParked
	}
	if c.held != nil {
		if size := cap(c.held.in) + cap(c.held.unsent); size > smallUnread {
			n += int64(size)
		}
	}
	return n
}

// weigh sets the weight of a connection. If there is no room for that, it closes the connection.
func (w *worker) weigh(c *polledConn) outcome {
	if !w.s.limiter.setWeight(&c.account, c.takes()) {
		return w.closeConn(c)
	}
	return kept
}

// countUnread counts n bytes that were sent. If many may be unread, it asks the system how many the
// client has not received. The connection may be in the queue of idle ones.
func (w *worker) countUnread(c *polledConn, n int) outcome {
	before := c.unread
	if c.unread += uint32(n); c.unread <= smallUnread {
		return kept
	}
	c.unread = uint32(pendingBytes(int(c.fd)))
	if (before > smallUnread) != (c.unread > smallUnread) && c.queued() {
		c.dequeue()
		w.setIdle(c)
	}
	return w.weigh(c)
}

// checkUnread checks whether clients have received their replies, for at most maxOverdue unread
// connections. more says that there may be others. A client that has received nothing for as long as
// Timeout loses its connection.
func (w *worker) checkUnread() (more bool) {
	const looks = 8 // at each client within Timeout
	for range maxOverdue {
		e := w.unread.popBefore(w.now.Add(-w.s.Timeout / looks))
		if e == nil {
			return false
		}
		c := e.owner.(*polledConn)
		pending := uint32(pendingBytes(int(c.fd)))
		if c.stalls++; pending < c.unread {
			c.stalls = 0
		}
		if c.unread = pending; c.stalls >= looks {
			w.closeConn(c)
			continue
		}
		w.setIdle(c)
	}
	return true
}

// setIdle makes a connection wait for its next request.
func (w *worker) setIdle(c *polledConn) {
	c.held = nil
	if c.unread > smallUnread {
		w.unread.enqueue(&c.queueEntry, w.now)
	} else {
		w.idle.enqueue(&c.queueEntry, w.now)
	}
	_ = w.weigh(c) // it has less than before
}

// endCutShort refuses a request whose client has sent only a part, and then has ended the connection.
// It needs no goroutine, because ten thousand clients may end at once.
func (w *worker) endCutShort(c *polledConn, in []byte) outcome {
	defer func() {
		if p := recover(); p != nil {
			w.s.logPanic(c.remote, p)
		}
	}()
	defer w.closeConn(c)
	w.b.out = w.b.out[:0]
	w.s.appendRefusal(&w.b, in, c.remote, c.via, cutShort, w.now)
	_, _ = rawCall(unix.SYS_WRITE, int(c.fd), w.b.out)
	return gone
}

// setBlocked keeps the replies that the client does not read, which are in unsent. It also keeps rest,
// which has later requests. The connection waits until all replies are sent, and until then the worker
// reads nothing from it.
func (w *worker) setBlocked(c *polledConn, unsent, rest []byte, why stopReason) outcome {
	c.hold(rest, bytes.Clone(unsent))
	c.why, c.drained, c.unread = why, false, max(c.unread, smallUnread+1)
	w.blocked.enqueue(&c.queueEntry, w.now)
	_ = w.control(unix.EPOLL_CTL_MOD, int(c.fd), c.fd, connEvents|unix.EPOLLOUT)
	return w.weigh(c)
}

// sendUnsent sends as much of the kept replies as is possible without waiting.
func (w *worker) sendUnsent(c *polledConn) outcome {
	if !c.queued() { // it is evicted
		return w.closeConn(c)
	}
	sent, errno := rawCall(unix.SYS_WRITE, int(c.fd), c.held.unsent)
	switch {
	case errno == unix.EAGAIN || errno == unix.EINTR:
		return kept
	case errno != 0:
		return w.closeConn(c)
	}
	c.dequeue()
	if c.held.unsent = c.held.unsent[sent:]; len(c.held.unsent) > 0 {
		w.blocked.enqueue(&c.queueEntry, w.now)
		return kept
	}
	c.held.unsent = nil
	c.unread = uint32(pendingBytes(int(c.fd)))
	return w.afterBatch(c, &w.batch, c.held.in, c.why, false)
}
