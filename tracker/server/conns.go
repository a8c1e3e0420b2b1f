package server

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"
)

// Defaults of how many connections there may be.
const (
	DefaultMaxConns        = 100_000
	DefaultMaxConnsPerAddr = 1000
)

// A census counts the connections there are, and says whether there may be another.
type census struct {
	most, mostOf int // in all, of one network
	files        int // open files that the process may have, where that decides; else 0
	// spare is how many files are left to the rest of the process, an eighth of it to connections
	// that are being refused, a quarter to those that are being evicted, and one to those that a
	// loop has accepted and not looked at.
	spare int

	mu      sync.Mutex
	all     int            // those that were admitted
	refused int            // those that are being refused
	of      map[uint64]int // those admitted, by network, as far as that is limited
	waiting map[*waiting]struct{}

	began time.Time
	noted [numLimits]atomic.Int64 // when that limit was logged last, since began; 0 for never
}

// An admission is what becomes of a new connection.
type admission int

const (
	admitted admission = iota
	refused            // it is answered 503, and counts until it has taken that
	rejected           // the same at once: too many are being refused
)

// A limit is what connections meet.
type limit int

const (
	none limit = iota
	ofAddr
	ofAll
	ofFiles // not met unless the rest of the process has more open than is left to it
	numLimits
)

// tooMany is the answer to a connection for which there is no room.
const tooMany = "HTTP/1.1 503 Service Unavailable\r\nContent-Type: text/plain; charset=utf-8\r\n" +
	"Cache-Control: no-store\r\n" +
	"Content-Length: 21\r\nRetry-After: 60\r\nConnection: close\r\n\r\ntoo many connections\n"

// init sets the limits. Those of the connections stay below that of open files, so that there is
// always one to accept and to refuse with: a connection that is not accepted waits without a word.
func (n *census) init(s *Server) {
	n.began, n.of, n.waiting = time.Now(), make(map[uint64]int), make(map[*waiting]struct{})
	files := maxFiles()
	n.spare = min(64+files/16, files/2)
	n.most = s.MaxConns
	if s.MaxConns == 0 {
		n.most = DefaultMaxConns
	}
	if n.most < 0 || n.most > files-n.spare {
		n.most, n.files = files-n.spare, files
	}
	if s.MaxConns > n.most && s.Logf != nil {
		s.Logf("at most %d connections, not %d: no more than %d files may be open (ulimit -n)",
			n.most, s.MaxConns, files)
	}
	n.mostOf = s.MaxConnsPerAddr
	if n.mostOf == 0 {
		n.mostOf = min(DefaultMaxConnsPerAddr, max(1, n.most/4))
	}
}

// network stands for the addresses that are limited together: one of IPv4, or a /64 of IPv6, which
// is what one subscriber gets. It is 0 where there is no limit: for this machine, over TCP or a
// Unix socket, and for reverse proxies, behind each of which is everybody.
func (s *Server) network(a netip.Addr) uint64 {
	a = a.Unmap()
	switch {
	case s.census.mostOf < 0 || !a.IsValid() || a.IsLoopback() || s.Tracker.Trusts(a):
		return 0
	case a.Is4():
		b := a.As4()
		return 0xff<<56 | uint64(binary.BigEndian.Uint32(b[:])) // no peer's IPv6 address begins so
	}
	b := a.As16()
	return binary.BigEndian.Uint64(b[:])
}

// admit counts one more connection, if there is room for it. One that is not rejected has to be
// released.
func (s *Server) admit(remote netip.AddrPort) admission {
	n := &s.census
	a, met := n.admit(s.network(remote.Addr()))
	if met == none {
		return a
	}
	fate := "was refused"
	if a == admitted {
		fate = "took the place of an idle one"
	}
	switch {
	case met == ofAddr:
		s.note(met, "a connection from %s %s: %d of its address are open, the most of one; "+
			"if that is a reverse proxy, name it as one", remote, fate, n.mostOf)
	case n.files > 0:
		s.note(met, "a connection from %s %s: %d are open, the most for %d files (ulimit -n)",
			remote, fate, n.most, n.files)
	default:
		s.note(met, "a connection from %s %s: %d are open, the most there may be", remote, fate, n.most)
	}
	return a
}

func (n *census) admit(network uint64) (a admission, met limit) {
	n.mu.Lock()
	defer n.mu.Unlock()
	switch {
	case network != 0 && n.of[network] >= n.mostOf:
		met = ofAddr
	case n.all >= n.most:
		met = ofAll
	}
	// One that is evicted counts until it has ended. There must not be too many of these.
	if met == none || met == ofAll && n.all-n.most < max(1, n.spare/4) && n.evict(time.Now()) {
		n.all++
		if network != 0 {
			n.of[network]++
		}
		return admitted, met
	}
	if n.refused >= n.spare/8 {
		return rejected, met
	}
	n.refused++
	return refused, met
}

// release forgets a connection that has ended.
func (s *Server) release(remote netip.AddrPort, a admission) {
	n, network := &s.census, s.network(remote.Addr())
	n.mu.Lock()
	defer n.mu.Unlock()
	switch {
	case a == rejected:
	case a == refused:
		n.refused--
	case network == 0:
		n.all--
	default:
		n.all--
		if n.of[network]--; n.of[network] == 0 {
			delete(n.of, network)
		}
	}
}

// note logs that a limit was met, for each limit once a minute at most: under attack it happens all
// the time.
func (s *Server) note(which limit, format string, args ...any) {
	noted := &s.census.noted[which]
	last, now := noted.Load(), int64(time.Since(s.census.began))+1
	soon := last != 0 && now-last < int64(time.Minute)
	if s.Logf == nil || soon || !noted.CompareAndSwap(last, now) {
		return
	}
	s.Logf("%s; for a minute, no others are reported", fmt.Sprintf(format, args...))
}
