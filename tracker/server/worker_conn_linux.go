package server

import (
	"bytes"
	"net/netip"
	"os"

	"golang.org/x/sys/unix"
)

// addConn serves a new connection, or refuses or drops it. Usually the first request has already
// arrived. If that is also the last, the connection is never added to epoll, even if it is parked.
func (w *worker) addConn(fd int, remote netip.AddrPort) {
	c := w.spare
	if c == nil {
		c = new(polledConn)
		c.owner, w.spare = c, c
	}
	v, exceeded := w.s.admitConn(remote, &c.account, weightPolled)
	switch v {
	case refused:
		w.handOver(fd, &conn{remote: remote, verdict: refused, unsent: []byte(exceeded.reply()), closeAfter: true})
		return
	case dropped:
		_, _ = rawCall(unix.SYS_READ, fd, w.in[:]) // without this read the close would reset the connection
		_, _ = rawCall(unix.SYS_WRITE, fd, []byte(exceeded.reply()))
		_, _ = rawCall(unix.SYS_CLOSE, fd, nil)
		return
	}
	c.fd, c.remote, c.via = int32(fd), remote, w.s.viaOf(remote, false)
	w.silent.enqueue(&c.queueEntry, w.now)
	if w.serveConn(c, false) == gone {
		*c = polledConn{} // c is spare again, if it is no stream
		c.owner = c
		return
	}
	w.spare = nil
	for fd >= len(w.conns) {
		w.conns = append(w.conns, make([]*polledConn, max(64, len(w.conns)))...)
	}
	w.conns[fd] = c
	if !c.parked {
		w.poll(c)
	}
}

// poll lets the worker get the events of a connection. There is an event if it is ready now.
func (w *worker) poll(c *polledConn) {
	events := uint32(connEvents)
	if len(c.unsent()) > 0 {
		events |= unix.EPOLLOUT
	}
	if c.polled = w.control(unix.EPOLL_CTL_ADD, int(c.fd), c.fd, events) == nil; !c.polled {
		w.closeConn(c)
	}
}

func (w *worker) closeConn(c *polledConn) outcome {
	c.dequeue()
	if c.stream != nil {
		c.stream.slow.dequeue()
		w.streams.open--
		c.stream.Close()
		c.stream = nil
	}
	w.s.releaseConn(c.remote, c.via, admitted, &c.account)
	_, _ = rawCall(unix.SYS_CLOSE, int(c.fd), nil)
	return w.forget(int(c.fd))
}

func (w *worker) forget(fd int) outcome {
	if fd < len(w.conns) {
		w.conns[fd] = nil
	}
	return gone
}

// handOver gives a connection to a goroutine of its own. If there is no memory for that, it ends the
// connection.
func (w *worker) handOver(fd int, c *conn) outcome {
	if c.verdict == admitted && !w.s.limiter.setWeight(&c.account, weightGoroutine+unreadWeight(c.unread)) {
		_, _ = rawCall(unix.SYS_WRITE, fd, []byte(tooMany))
		w.s.releaseConn(c.remote, c.via, admitted, &c.account)
		_, _ = rawCall(unix.SYS_CLOSE, fd, nil)
		return w.forget(fd)
	}
	_ = unix.EpollCtl(w.epollFD, unix.EPOLL_CTL_DEL, fd, nil)
	c.turn = &turnConn{Conn: fdConn{os.NewFile(uintptr(fd), "connection")}, turns: w.s.turns}
	c.s, c.nc = w.s, c.turn
	c.in, c.unsent = bytes.Clone(c.in), bytes.Clone(c.unsent)
	w.s.mu.Lock()
	w.s.register(c) // allowed during Shutdown, which still waits for this worker
	w.s.mu.Unlock()
	go c.serveRequests()
	return w.forget(fd)
}
