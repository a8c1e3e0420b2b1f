package server

import (
	"encoding/binary"
	"fmt"
	"log/slog"
	"math"
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

// A connLimiter counts the connections of a Server and decides whether there may be one more.
type connLimiter struct {
	maxConns, maxPerAddr int
	fileLimit            int // the system's limit on open files if it lowers maxConns; else 0
	// reservedFiles is how many open files are not for admitted connections. An eighth of it is
	// for connections that are being refused. A quarter is for evicted connections that have not
	// ended yet, and a quarter for connections that a worker has accepted and not yet served. The
	// rest is for files that are not connections.
	reservedFiles int

	mu          sync.Mutex
	numAdmitted int // open connections, without those that are being refused
	numRefused  int // connections that are being refused
	maxRefused  int
	perNetwork  map[uint64]int // admitted connections of each network that has a limit
	queues      map[*connQueue]struct{}
	memory      memoryLimits
	rate        connRate
	stats       Stats // only the counts of admissions, refusals and evictions

	start  time.Time
	logged [numLimits]atomic.Int64 // for each limit, the time from start to its last log line; 0 is never
}

// A verdict is the decision about a new connection.
type verdict int

const (
	admitted verdict = iota
	refused          // the server waits for a request, sends a 503, and gives the client time to read it
	dropped          // the server sends a 503 and closes at once, because too many are being refused
)

// A limit is one of the limits that a new connection can exceed.
type limit int

const (
	noLimit limit = iota
	limitPerAddr
	limitConns
	limitRate
	limitMemory
	limitFiles       // no file descriptor is free, so the system accepts no connection
	limitProxyHeader // a trusted proxy sent no PROXY header; see logProxy
	numLimits
)

// tooMany is the reply to a connection that is refused or dropped. tooFast is the reply to one whose
// address has opened too many in a short time (rate.go). noMemory takes the place of replies that have
// no room.
const (
	unavailable = "HTTP/1.1 503 Service Unavailable\r\nContent-Type: text/plain; charset=utf-8\r\nCache-Control: no-store\r\n"
	tooMany     = unavailable + "Content-Length: 21\r\nRetry-After: 60\r\nConnection: close\r\n\r\ntoo many connections\n"
	tooFast     = unavailable + "Content-Length: 54\r\nRetry-After: 10\r\nConnection: close\r\n\r\ntoo many new connections from this address: wait 10 s\n"
	noMemory    = unavailable + "Content-Length: 33\r\nRetry-After: 60\r\nConnection: close\r\n\r\ntoo little memory for this reply\n"
)

// reply is the reply to a connection that exceeds the limit.
func (exceeded limit) reply() string {
	if exceeded == limitRate {
		return tooFast
	}
	return tooMany
}

// init sets maxConns below the limit on open files. So the server can always accept one more
// connection and refuse it. If it did not accept the connection, the client would get no reply.
func (l *connLimiter) init(s *Server) {
	l.rate.init()
	l.start, l.perNetwork, l.queues = time.Now(), make(map[uint64]int), make(map[*connQueue]struct{})
	files := maxFiles()
	l.reservedFiles = min(64+files/16, files/2)
	l.maxConns, l.maxRefused = s.MaxConns, l.reservedFiles/8
	if s.MaxConns == 0 {
		l.maxConns = DefaultMaxConns
	}
	if s.MaxMemory > 0 {
		l.memory.most = s.MaxMemory - s.MaxMemory/8
		l.maxRefused = int(min(int64(l.maxRefused), s.MaxMemory/8/weightGoroutine))
		if s.MaxConns == 0 {
			l.maxConns = int(min(math.MaxInt32, max(1, l.memory.most/weightPolled)))
		}
	}
	if most := files - l.reservedFiles; l.maxConns < 0 || l.maxConns > most {
		l.maxConns, l.fileLimit = most, files
	}
	if s.MaxConns > l.maxConns {
		s.Log.Warn(fmt.Sprintf("at most %d connections, not %d: this process may have %d files open (ulimit -n)",
			l.maxConns, s.MaxConns, files))
	}
	l.maxPerAddr = s.MaxConnsPerAddr
	if l.maxPerAddr == 0 {
		l.maxPerAddr = min(DefaultMaxConnsPerAddr, max(1, l.maxConns/4))
	}
}

// network returns a number for the addresses that share one limit: one IPv4 address, or one IPv6
// /64, which is what a provider gives to one customer. It returns 0 for an address without a limit.
// These are the Tracker's Exempt addresses, Unix sockets, and reverse proxies, each of which may have
// any number of clients.
func (s *Server) network(a netip.Addr) uint64 {
	a = a.Unmap()
	switch {
	case s.limiter.maxPerAddr < 0 || s.Tracker.Exempts(a) || s.Tracker.Trusts(a):
		return 0
	case a.Is4():
		b := a.As4()
		return 0xff<<56 | uint64(binary.BigEndian.Uint32(b[:])) // ff00::/8 is multicast, so no client has such an IPv6 address
	}
	b := a.As16()
	return binary.BigEndian.Uint64(b[:])
}

// admitConn decides about a new connection, counts it and its weight, and logs the limit that it
// exceeds. The caller must call releaseConn when the connection has ended, unless it is dropped.
func (s *Server) admitConn(remote netip.AddrPort, a *account, weight int64) (v verdict, exceeded limit) {
	l := &s.limiter
	v, exceeded = l.decide(s.network(remote.Addr()), s.opensTooFast(remote.Addr(), weight), a, weight)
	if exceeded == noLimit {
		return v, exceeded
	}
	outcome := "was refused"
	if v == admitted {
		outcome = "took the place of an idle one"
	}
	switch {
	case exceeded == limitPerAddr:
		s.logLimit(exceeded, remote, "a connection %s: %d connections from its address are open, the limit for one address; "+
			"if a reverse proxy has this address, add it to the trusted proxies", outcome, l.maxPerAddr)
	case exceeded == limitRate:
		s.logLimit(exceeded, remote, "a connection %s: its address opens more than %d a second; "+
			"if a reverse proxy has this address, add it to the trusted proxies", outcome, l.rate.limit.PerSecond)
	case exceeded == limitMemory:
		s.logLimit(exceeded, remote, "a connection %s: the open ones take %d MB, the limit of memory for connections",
			outcome, s.MaxMemory>>20)
	case l.fileLimit > 0:
		s.logLimit(exceeded, remote, "a connection %s: %d are open, the limit if a process may have %d files open (ulimit -n)",
			outcome, l.maxConns, l.fileLimit)
	default:
		s.logLimit(exceeded, remote, "a connection %s: %d are open, which is the limit", outcome, l.maxConns)
	}
	return v, exceeded
}

// decide decides about a new connection and counts it. If there are too many, it evicts another
// one. tooFast says that its address has opened too many. exceeded is the limit that the new one
// exceeds, or noLimit.
func (l *connLimiter) decide(network uint64, tooFast bool, a *account, weight int64) (v verdict, exceeded limit) {
	l.mu.Lock()
	defer l.mu.Unlock()
	admit := true
	switch {
	case tooFast:
		exceeded, admit = limitRate, false
	case network != 0 && l.perNetwork[network] >= l.maxPerAddr:
		exceeded, admit = limitPerAddr, false
	case l.numAdmitted >= l.maxConns:
		// numAdmitted still has the evicted connections that have not ended. They use files, so
		// their number is limited, too.
		evicted := l.numAdmitted - l.maxConns
		exceeded, admit = limitConns, evicted < max(1, l.reservedFiles/4) && l.evictOne()
	}
	if admit {
		tight := l.memory.tight(weight)
		if admit = l.makeMemory(weight, l.memory.most); tight || !admit {
			exceeded = limitMemory
		}
	}
	switch {
	case admit:
		l.numAdmitted++
		l.stats.Accepted++
		l.addWeight(a, weight)
		if network != 0 {
			l.perNetwork[network]++
		}
		return admitted, exceeded
	case exceeded == limitRate:
		l.stats.RefusedRate++
	case exceeded == limitPerAddr:
		l.stats.RefusedPerAddr++
	default:
		l.stats.RefusedConns++
	}
	if l.numRefused < l.maxRefused {
		l.numRefused++
		return refused, exceeded
	}
	return dropped, exceeded
}

// releaseConn stops counting a connection that has ended.
func (s *Server) releaseConn(remote netip.AddrPort, how via, v verdict, a *account) {
	l, network := &s.limiter, s.network(how.counted(remote).Addr())
	l.mu.Lock()
	defer l.mu.Unlock()
	l.addWeight(a, -a.weight)
	switch {
	case v == dropped:
	case v == refused:
		l.numRefused--
	case network == 0:
		l.numAdmitted--
	default:
		l.numAdmitted--
		if l.perNetwork[network]--; l.perNetwork[network] == 0 {
			delete(l.perNetwork, network)
		}
	}
}

// logLimit logs that a connection exceeded a limit. It logs each limit at most once a minute,
// because during an attack many connections exceed one.
func (s *Server) logLimit(exceeded limit, remote netip.AddrPort, format string, args ...any) {
	if exceeded == limitFiles {
		s.outOfFiles.Add(1)
	}
	logged := &s.limiter.logged[exceeded]
	last, now := logged.Load(), int64(time.Since(s.limiter.start))+1
	recent := last != 0 && now-last < int64(time.Minute)
	if recent || !logged.CompareAndSwap(last, now) {
		return
	}
	s.log(slog.LevelWarn, fmt.Sprintf(format, args...)+"; more of these are not logged for a minute", remote)
}

// silentGrace is for how long evictOne spares a connection that is silent, or that has begun a
// request. It is also how long a refusal waits for a request. A server that shuts down still waits
// that long for the request of a new connection. A connection is silent until it has sent its first
// request.
const silentGrace = time.Second

// evictOne evicts one connection, or returns false if it finds none. It tries these kinds one after
// the other, and takes the oldest connection of a kind:
//
//  1. unread: the client does not read.
//  2. silent: the client has sent nothing.
//  3. idle: there is no request, but there was one before.
//  4. begun: the client has sent a part of a request.
//
// It spares silent and begun connections for silentGrace, unless more than a quarter of all
// connections are of that kind. If more than a quarter are begun, it tries begun before idle. So
// clients that send nothing, or parts of requests, can evict other clients only until they have a
// quarter of all connections. l.mu is locked.
func (l *connLimiter) evictOne() bool {
	var oldest [numKinds]*connQueue // the queue of each kind with the oldest entry
	var since [numKinds]time.Time
	var number [numKinds]int
	for q := range l.queues {
		at, size := q.oldest()
		k := q.kind
		if number[k] += size; size > 0 && (oldest[k] == nil || at.Before(since[k])) {
			oldest[k], since[k] = q, at
		}
	}
	now, few := time.Now(), min(l.maxConns, l.numAdmitted)/4
	order := [...]queueKind{unreadConns, silentConns, idleConns, begunConns}
	if number[begunConns] > few {
		order[2], order[3] = begunConns, idleConns
	}
	for _, kind := range order {
		q := oldest[kind]
		grace := number[kind] <= few && (kind == silentConns || kind == begunConns)
		if q == nil || grace && now.Sub(since[kind]) < silentGrace {
			continue
		}
		if a := q.evictOldest(); a != nil {
			l.stats.Evicted++
			if !a.leaving { // else it was evicted before, and has served one more request since then
				a.leaving = true
				l.memory.leaving += a.weight
			}
			return true
		}
	}
	return false
}

// addQueue initializes q and lets evictOne evict its connections.
func (l *connLimiter) addQueue(q *connQueue, kind queueKind) {
	q.init(kind)
	l.mu.Lock()
	defer l.mu.Unlock()
	l.queues[q] = struct{}{}
}

func (l *connLimiter) removeQueue(q *connQueue) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.queues, q)
}

// A connQueue is a list of connections that wait for the same thing, such as a request. The first
// entry is the oldest. A queue has a lock because evictOne may run in any goroutine. Each other
// call comes from the worker of the queue or, for a Server's queue, from the goroutine of the
// connection.
type connQueue struct {
	kind  queueKind
	began time.Time

	mu   sync.Mutex
	ring queueEntry // ring.next is the oldest entry, ring.prev the newest
	n    int        // entries
}

// A queueKind says what the connections of a queue wait for. evictOne takes those of the first kind
// first.
type queueKind uint8

const (
	unreadConns queueKind = iota // their clients do not read what was sent
	silentConns                  // they have not sent a request yet
	idleConns                    // they have had a reply, and have not begun another request
	begunConns                   // the rest of a request has not arrived
	numKinds
	notEvicted = numKinds
)

// A queueEntry is a connection's place in a queue. It is in one queue at a time.
type queueEntry struct {
	owner interface {
		// stopWaiting makes the owner end the connection soon. If a request has just arrived, the
		// owner may serve it before that.
		stopWaiting()
		// accountOf returns the account of the connection.
		accountOf() *account
	}
	since   time.Duration // from began of the queue to when it was added
	evicted bool

	queue      *connQueue  // the queue that it was last added to
	prev, next *queueEntry // nil while it is in no queue
}

func (q *connQueue) init(kind queueKind) {
	q.kind, q.began = kind, time.Now()
	q.ring.prev, q.ring.next = &q.ring, &q.ring
}

func (q *connQueue) enqueue(e *queueEntry, now time.Time) {
	q.mu.Lock()
	defer q.mu.Unlock()
	e.since, e.queue = now.Sub(q.began), q
	e.prev, e.next = q.ring.prev, &q.ring
	e.prev.next, q.ring.prev = e, e
	q.n++
}

// dequeue removes e from its queue if it is still there.
func (e *queueEntry) dequeue() {
	q := e.queue
	if q == nil {
		return
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	if e.next != nil {
		q.unlink(e)
	}
}

// queued says whether e is still in its queue.
func (e *queueEntry) queued() bool {
	if e.queue == nil {
		return false
	}
	e.queue.mu.Lock()
	defer e.queue.mu.Unlock()
	return e.next != nil
}

// unlink removes e from q. q.mu is locked.
func (q *connQueue) unlink(e *queueEntry) {
	e.prev.next, e.next.prev = e.next, e.prev
	e.prev, e.next = nil, nil
	q.n--
}

func (q *connQueue) empty() bool {
	_, n := q.oldest()
	return n == 0
}

// oldest returns when the oldest entry was added, and the number of entries.
func (q *connQueue) oldest() (since time.Time, n int) {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.began.Add(q.ring.next.since), q.n
}

// each calls visit for each entry. visit must not call methods of the queue.
func (q *connQueue) each(visit func(*queueEntry)) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for e := q.ring.next; e != &q.ring; e = e.next {
		visit(e)
	}
}

// popBefore removes and returns the oldest entry if it was added at t or before. Otherwise it
// returns nil.
func (q *connQueue) popBefore(t time.Time) *queueEntry {
	q.mu.Lock()
	defer q.mu.Unlock()
	e := q.ring.next
	if e == &q.ring || e.since > t.Sub(q.began) {
		return nil
	}
	q.unlink(e)
	return e
}

// evictOldest evicts the oldest entry, and returns its account. It returns nil if there is none.
func (q *connQueue) evictOldest() *account {
	q.mu.Lock()
	defer q.mu.Unlock()
	e := q.ring.next
	if e == &q.ring {
		return nil
	}
	q.unlink(e)
	e.evicted = true
	e.owner.stopWaiting()
	return e.owner.accountOf()
}
