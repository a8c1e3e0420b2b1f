package dns

import (
	"context"
	"net/netip"
	"time"
)

// The limits, for tests.
const (
	MaxConns   = maxConns
	MaxPerAddr = maxPerAddr
	MaxWaiting = maxWaiting
	MaxZone    = maxZone
	MaxQuery   = maxQuery
)

// UDPBurst is how many answers one address gets at once.
func UDPBurst() int { return udpRate.Burst }

// TCPBurst is UDPBurst for TCP.
func TCPBurst() int { return tcpRate.Burst }

// Allows uses an answer of this address, and returns whether it may have it.
func (s *Server) Allows(addr netip.Addr, tcp bool) bool {
	s.once.Do(s.init)
	_, ok := s.allows(asker{addr: addr, tcp: tcp})
	return ok
}

// SetTimes sets how long a connection may take, and the store.
func (s *Server) SetTimes(conn, store time.Duration) { s.connTime, s.storeTime = conn, store }

// IdleConns returns how many connections wait for a query.
func (s *Server) IdleConns() (n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for c := range s.conns {
		if c.idle {
			n++
		}
	}
	return n
}

// An Answerer answers messages without sockets.
type Answerer struct {
	s     *Server
	w     work
	local netip.Addr
}

// NewAnswerer returns an Answerer of s.
func NewAnswerer(s *Server) *Answerer {
	s.once.Do(s.init)
	return &Answerer{s: s, local: netip.AddrFrom4([4]byte{198, 51, 100, 53})}
}

// SetLocal sets the address to which messages come.
func (a *Answerer) SetLocal(addr netip.Addr) { a.local = addr }

// Answer returns the reply to a message from this address, which came to 198.51.100.53 unless
// SetLocal was called.
func (a *Answerer) Answer(msg []byte, from netip.Addr, tcp bool) []byte {
	n := copy(a.w.in[:], msg)
	return a.s.answer(context.Background(), a.w.in[:n], asker{addr: from, local: a.local, tcp: tcp}, &a.w)
}
