package door

import (
	"bytes"
	"net"
	"time"
)

// Conns are all connections, and Open those that have a goroutine.
func (s *Server) Conns() int { return int(s.conns.Load()) }

func (s *Server) Open() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.open)
}

// ServeAnswers serves l with what a loop answers, but without its sockets, so that connections can
// come from anywhere, and in virtual time.
func (s *Server) ServeAnswers(l net.Listener) {
	s.once.Do(s.init)
	for {
		nc, err := l.Accept()
		if err != nil {
			return
		}
		s.admit()
		go s.serveAnswers(nc)
	}
}

func (s *Server) serveAnswers(nc net.Conn) {
	c := &conn{s: s, nc: nc, remote: nc.RemoteAddr().(*net.TCPAddr).AddrPort()}
	for l := (&loop{loops: &loops{s: s}}); ; {
		n, err := nc.Read(l.in[:])
		if err != nil {
			break
		}
		l.now = time.Now()
		rest, more := l.answer(l.in[:n], c.remote)
		if _, err := nc.Write(l.o.out); err != nil {
			break
		}
		if len(rest) > 0 {
			c.in = bytes.Clone(rest)
			s.mu.Lock()
			s.add(c)
			s.mu.Unlock()
			c.serve()
			return
		}
		if !more {
			break
		}
	}
	_ = nc.Close()
	s.conns.Add(-1)
}
