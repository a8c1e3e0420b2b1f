package server

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"
)

// Defaults of the fields of a Server that limit its connections.
const (
	DefaultMaxConns        = 100_000
	DefaultMaxConnsPerAddr = 1000
)

// limits counts the connections of a Server and decides whether there may be one more.
type limits struct {
	maxConns, maxPerAddr int
	maxFiles             int // how many files the process may open, if that decides maxConns; else 0
	// spare is how many files are left for everything else. An eighth of it is for connections
	// that are being refused, and a quarter for those that are being evicted. Another quarter is
	// for connections that a worker has accepted and not yet served.
	spare int

	mu         sync.Mutex
	admitted   int            // connections that are open, without those being refused
	refused    int            // connections that are being refused
	perNetwork map[uint64]int // admitted connections of each network that is limited
	queues     map[*connQueue]struct{}

	start  time.Time
	logged [numLimits]atomic.Int64 // when that limit was last logged, since start; 0 for never
}

// An admission is what the limits decide about a new connection.
type admission int

const (
	admitted admission = iota
	refused            // it is answered 503, and counts until the client has taken that
	rejected           // it is answered 503 and closed at once, because too many are being refused
)

// A limit is what a new connection can exceed.
type limit int

const (
	noLimit limit = iota
	limitPerAddr
	limitConns
	limitFiles // exceeded only if the rest of the process has opened more files than spare
	numLimits
)

// tooMany is the answer to a connection that is refused.
const tooMany = "HTTP/1.1 503 Service Unavailable\r\nContent-Type: text/plain; charset=utf-8\r\n" +
	"Cache-Control: no-store\r\n" +
	"Content-Length: 21\r\nRetry-After: 60\r\nConnection: close\r\n\r\ntoo many connections\n"

// init keeps the number of connections below that of open files. So the server can always accept
// one more connection and refuse it: one that is not accepted waits without an answer.
func (n *limits) init(s *Server) {
	n.start, n.perNetwork, n.queues = time.Now(), make(map[uint64]int), make(map[*connQueue]struct{})
	files := maxFiles()
	n.spare = min(64+files/16, files/2)
	n.maxConns = s.MaxConns
	if s.MaxConns == 0 {
		n.maxConns = DefaultMaxConns
	}
	if n.maxConns < 0 || n.maxConns > files-n.spare {
		n.maxConns, n.maxFiles = files-n.spare, files
	}
	if s.MaxConns > n.maxConns && s.Logf != nil {
		s.Logf("at most %d connections, not %d: no more than %d files may be open (ulimit -n)",
			n.maxConns, s.MaxConns, files)
	}
	n.maxPerAddr = s.MaxConnsPerAddr
	if n.maxPerAddr == 0 {
		n.maxPerAddr = min(DefaultMaxConnsPerAddr, max(1, n.maxConns/4))
	}
}

// network identifies the addresses that are limited together: one IPv4 address or one IPv6 /64,
// which is what one subscriber gets. It returns 0 for an address without a limit: this machine,
// over TCP or a Unix socket, and a reverse proxy, which has any number of clients behind it.
func (s *Server) network(a netip.Addr) uint64 {
	a = a.Unmap()
	switch {
	case s.limits.maxPerAddr < 0 || !a.IsValid() || a.IsLoopback() || s.Tracker.Trusts(a):
		return 0
	case a.Is4():
		b := a.As4()
		return 0xff<<56 | uint64(binary.BigEndian.Uint32(b[:])) // no peer's IPv6 address begins like this
	}
	b := a.As16()
	return binary.BigEndian.Uint64(b[:])
}

// admitConn decides about a new connection and logs the limit that it exceeds. Unless the
// connection is rejected, releaseConn must be called when it has ended.
func (s *Server) admitConn(remote netip.AddrPort) admission {
	n := &s.limits
	a, exceeded := n.count(s.network(remote.Addr()))
	if exceeded == noLimit {
		return a
	}
	outcome := "was refused"
	if a == admitted {
		outcome = "took the place of an idle one"
	}
	switch {
	case exceeded == limitPerAddr:
		s.logLimit(exceeded, "a connection from %s %s: %d of its address are open, the most of one; "+
			"if that is a reverse proxy, name it as one", remote, outcome, n.maxPerAddr)
	case n.maxFiles > 0:
		s.logLimit(exceeded, "a connection from %s %s: %d are open, the most for %d files (ulimit -n)",
			remote, outcome, n.maxConns, n.maxFiles)
	default:
		s.logLimit(exceeded, "a connection from %s %s: %d are open, the most there may be", remote, outcome, n.maxConns)
	}
	return a
}

func (n *limits) count(network uint64) (a admission, exceeded limit) {
	n.mu.Lock()
	defer n.mu.Unlock()
	switch {
	case network != 0 && n.perNetwork[network] >= n.maxPerAddr:
		exceeded = limitPerAddr
	case n.admitted >= n.maxConns:
		exceeded = limitConns
	}
	// An evicted connection counts until it has ended, so the number of these is limited, too.
	if exceeded == noLimit ||
		exceeded == limitConns && n.admitted-n.maxConns < max(1, n.spare/4) && n.makeRoom(time.Now()) {
		n.admitted++
		if network != 0 {
			n.perNetwork[network]++
		}
		return admitted, exceeded
	}
	if n.refused >= n.spare/8 {
		return rejected, exceeded
	}
	n.refused++
	return refused, exceeded
}

// releaseConn stops counting a connection that has ended.
func (s *Server) releaseConn(remote netip.AddrPort, a admission) {
	n, network := &s.limits, s.network(remote.Addr())
	n.mu.Lock()
	defer n.mu.Unlock()
	switch {
	case a == rejected:
	case a == refused:
		n.refused--
	case network == 0:
		n.admitted--
	default:
		n.admitted--
		if n.perNetwork[network]--; n.perNetwork[network] == 0 {
			delete(n.perNetwork, network)
		}
	}
}

// logLimit logs that a limit was exceeded, at most once a minute for each limit: under attack it
// happens all the time.
func (s *Server) logLimit(l limit, format string, args ...any) {
	logged := &s.limits.logged[l]
	last, now := logged.Load(), int64(time.Since(s.limits.start))+1
	recent := last != 0 && now-last < int64(time.Minute)
	if s.Logf == nil || recent || !logged.CompareAndSwap(last, now) {
		return
	}
	s.Logf("%s; for a minute, no others are reported", fmt.Sprintf(format, args...))
}

// silentGrace is how long a connection may be silent before it can be evicted. If more than a
// quarter of all connections are silent, they can be evicted at once.
const silentGrace = time.Second

// makeRoom evicts the connection that has waited longest for a request and says whether there was
// one. A silent connection, which has not sent any request yet, goes before one that has. So any
// number of silent connections cannot displace those that have sent a request. n.mu is locked.
func (n *limits) makeRoom(now time.Time) bool {
	var longest [2]*connQueue // silent, and answered
	var since [2]time.Time
	silent := 0
	for q := range n.queues {
		i := 0
		t, size := q.oldest()
		if q.answered {
			i = 1
		} else {
			silent += size
		}
		if size > 0 && (longest[i] == nil || t.Before(since[i])) {
			longest[i], since[i] = q, t
		}
	}
	if longest[0] != nil && (silent > n.maxConns/4 || now.Sub(since[0]) >= silentGrace) && longest[0].evictOldest() {
		return true
	}
	return longest[1] != nil && longest[1].evictOldest()
}

// addQueue initializes q and lets makeRoom evict its connections.
func (n *limits) addQueue(q *connQueue, answered bool) {
	q.init(answered)
	n.mu.Lock()
	defer n.mu.Unlock()
	n.queues[q] = struct{}{}
}

func (n *limits) removeQueue(q *connQueue) {
	n.mu.Lock()
	defer n.mu.Unlock()
	delete(n.queues, q)
}

// A connQueue is a list of connections that wait for something. The one that has waited longest
// comes first. Its lock is for makeRoom: otherwise a queue is used by one worker only, or each
// entry by the goroutine of its connection.
type connQueue struct {
	answered bool // each connection has had a reply; else none has sent a request yet

	mu   sync.Mutex
	ring queueEntry // its next is the first entry, its prev the last
	n    int
}

// A queueEntry is a connection's place in a queue. It is in one queue at a time.
type queueEntry struct {
	owner interface {
		// stopWaiting makes the owner of the connection end it soon. The owner may find a request
		// first.
		stopWaiting()
	}
	since   time.Time // when it was added
	evicted bool

	queue      *connQueue  // the queue it was last added to
	prev, next *queueEntry // nil when it is in no queue
}

func (q *connQueue) init(answered bool) {
	q.answered = answered
	q.ring.prev, q.ring.next = &q.ring, &q.ring
}

func (q *connQueue) enqueue(e *queueEntry, now time.Time) {
	q.mu.Lock()
	defer q.mu.Unlock()
	e.since, e.queue = now, q
	e.prev, e.next = q.ring.prev, &q.ring
	e.prev.next, q.ring.prev = e, e
	q.n++
}

// dequeue takes e out of its queue, if it is still there.
func (e *queueEntry) dequeue() {
	q := e.queue
	q.mu.Lock()
	defer q.mu.Unlock()
	if e.next != nil {
		q.unlink(e)
	}
}

// queued says whether e is still in its queue.
func (e *queueEntry) queued() bool {
	e.queue.mu.Lock()
	defer e.queue.mu.Unlock()
	return e.next != nil
}

// unlink takes e out. q.mu is locked.
func (q *connQueue) unlink(e *queueEntry) {
	e.prev.next, e.next.prev = e.next, e.prev
	e.prev, e.next = nil, nil
	q.n--
}

func (q *connQueue) empty() bool {
	_, n := q.oldest()
	return n == 0
}

// oldest returns when the first entry was added, and the number of entries.
func (q *connQueue) oldest() (since time.Time, n int) {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.ring.next.since, q.n
}

// popBefore takes out the first entry if it was added at t or before; else it returns nil.
func (q *connQueue) popBefore(t time.Time) *queueEntry {
	q.mu.Lock()
	defer q.mu.Unlock()
	e := q.ring.next
	if e == &q.ring || e.since.After(t) {
		return nil
	}
	q.unlink(e)
	return e
}

// evictOldest ends the wait of the first entry and says whether there was one.
func (q *connQueue) evictOldest() bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	e := q.ring.next
	if e == &q.ring {
		return false
	}
	q.unlink(e)
	e.evicted = true
	e.owner.stopWaiting()
	return true
}
