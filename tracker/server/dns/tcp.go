package dns

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"net/netip"
	"time"

	"ntrack/tracker/server"
)

const (
	// maxConns is how many connections may be open, and maxPerAddr is how many of one IPv4 address or
	// IPv6 /64. If there are that many, a new one evicts the one that has waited longest for a query. If
	// none waits, it evicts the one that has been served longest, if that is longer than the store may
	// take: its client does not read, or asks for more than its address may have.
	maxConns   = 256
	maxPerAddr = 16
	// defaultConnTime is how long a connection may take for its next query, and for a reply.
	defaultConnTime = 10 * time.Second
	// buffers is what the system keeps for a connection in each direction, about twice. By itself it would
	// keep megabytes for a client that does not read.
	buffers = 64 << 10
)

// A conn is a TCP connection.
type conn struct {
	nc   net.Conn
	from asker
	net  netip.Prefix // of its client; not valid if it has no limit
	// idle says that it waits for a query, and since is the time since which it does, or does not. The
	// Server's mu protects them.
	idle  bool
	since time.Time
}

// acceptTCP accepts connections until that fails.
func (s *Server) acceptTCP(tcp net.Listener) error {
	for pause := time.Duration(0); ; {
		nc, err := tcp.Accept()
		switch {
		case err == nil:
			pause = 0
			s.startConn(nc)
		case server.AcceptsLater(err) && !errors.Is(err, net.ErrClosed):
			pause = min(max(2*pause, 5*time.Millisecond), time.Second)
			select {
			case <-time.After(pause):
			case <-s.ctx.Done():
			}
		default:
			return err
		}
	}
}

// startConn serves a connection in a goroutine, or closes it if there are too many.
func (s *Server) startConn(nc net.Conn) {
	if tcp, ok := nc.(*net.TCPConn); ok {
		_, _ = tcp.SetReadBuffer(buffers), tcp.SetWriteBuffer(buffers)
	}
	c := &conn{nc: nc, idle: true, since: time.Now()}
	c.from = asker{addr: addrOf(nc.RemoteAddr()), local: addrOf(nc.LocalAddr()), tcp: true}
	if a := c.from.addr; !s.Tracker.Exempts(a) {
		bits := 64
		if a.Is4() {
			bits = 32
		}
		c.net, _ = a.Prefix(bits)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed || !s.makeRoom(c) {
		_ = nc.Close()
		return
	}
	s.conns[c] = struct{}{}
	if c.net.IsValid() {
		s.perAddr[c.net]++
	}
	s.active.Add(1)
	go s.serveConn(c)
}

// makeRoom says whether there is room for c. It evicts another connection if need be. s.mu is locked.
func (s *Server) makeRoom(c *conn) bool {
	crowded := c.net.IsValid() && s.perAddr[c.net] >= maxPerAddr
	if !crowded && len(s.conns) < maxConns {
		return true
	}
	var oldest *conn
	for other := range s.conns {
		switch {
		case crowded && other.net != c.net, !other.idle && time.Since(other.since) <= s.storeTime:
		case oldest == nil, other.idle && !oldest.idle, other.idle == oldest.idle && other.since.Before(oldest.since):
			oldest = other
		}
	}
	if oldest == nil {
		return false
	}
	s.remove(oldest)
	return true
}

// remove closes a connection, and makes room for another one. s.mu is locked.
func (s *Server) remove(c *conn) {
	_ = c.nc.Close()
	if _, ok := s.conns[c]; !ok {
		return
	}
	delete(s.conns, c)
	if n := s.perAddr[c.net] - 1; n > 0 {
		s.perAddr[c.net] = n
	} else {
		delete(s.perAddr, c.net)
	}
}

// setIdle notes whether c waits for a query. It returns false if c was evicted.
func (s *Server) setIdle(c *conn, idle bool) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	c.idle, c.since = idle, time.Now()
	_, ok := s.conns[c]
	return ok
}

// serveConn answers the queries of a connection, one after the other (RFC 7766).
func (s *Server) serveConn(c *conn) {
	defer s.active.Done()
	defer func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.remove(c)
	}()
	in := bufio.NewReaderSize(c.nc, 512)
	for s.setIdle(c, true) && s.serveQuery(c, in) {
	}
}

// serveQuery reads one query and answers it. It returns false if the connection has to end.
func (s *Server) serveQuery(c *conn, in *bufio.Reader) bool {
	_ = c.nc.SetReadDeadline(time.Now().Add(s.connTime))
	var length [2]byte
	if _, err := io.ReadFull(in, length[:]); err != nil {
		return false
	}
	n := int(binary.BigEndian.Uint16(length[:]))
	if n > maxQuery {
		return false
	}
	w := s.works.Get().(*work)
	defer s.works.Put(w)
	if _, err := io.ReadFull(in, w.in[:n]); err != nil || !s.setIdle(c, false) || !s.pace(c) {
		return false
	}
	ctx, cancel := s.ctx, context.CancelFunc(func() {})
	if s.Tracker.MayWait() {
		ctx, cancel = context.WithTimeout(s.ctx, s.storeTime)
	}
	defer cancel()
	reply := s.protect(func() []byte {
		return s.answer(ctx, w.in[:n], c.from, w)
	})
	if reply == nil {
		return false
	}
	return c.send(reply, s.connTime) == nil
}

// send sends a reply after its length, within d.
func (c *conn) send(reply []byte, d time.Duration) error {
	_ = c.nc.SetWriteDeadline(time.Now().Add(d))
	buffers := net.Buffers{binary.BigEndian.AppendUint16(nil, uint16(len(reply))), reply}
	_, err := buffers.WriteTo(c.nc)
	return err
}

// pace waits until the client may have another answer. It returns false if Close was called.
func (s *Server) pace(c *conn) bool {
	for {
		wait, ok := s.allows(c.from)
		if ok {
			return true
		}
		select {
		case <-time.After(max(wait, time.Millisecond)):
		case <-s.ctx.Done():
			return false
		}
	}
}
