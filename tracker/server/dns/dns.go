// Package dns answers queries of the Domain Name System from the table of a tracker. So a program that
// knows only names finds peers:
//
//	KEY.ZONE                   A, AAAA: the addresses of the peers of KEY
//	_SERVICE._PROTO.KEY.ZONE   SRV: their ports, with names for their addresses
//	192-0-2-1.ip.ZONE          A or AAAA: these names, for any address
//	ns.ZONE                    A or AAAA: the address of this server to which the query came
//
// A key has a name if it is a host name of one label in lower case (RFC 1123), but not ip or ns.
// Nothing else exists, and nothing lists the keys. A client gets the peers that a tracker would report
// to its address. The client is usually a resolver, which passes them on to anybody who asks it.
//
// Package dnsmessage parses the queries and writes the answers.
package dns

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"

	"ntrack/tracker"
	"ntrack/tracker/rate"
)

const (
	// defaultStoreTime is how long the store may take for an answer. Resolvers ask again after one to
	// five seconds.
	defaultStoreTime = 2 * time.Second
	// rateTable is the size of the table for the limits by address.
	rateTable = 1 << 20
)

// The limits by address. Anybody can send UDP in the name of another address, so they say how much one
// victim gets: 100 answers of 1232 bytes are 1 Mbit/s.
var (
	udpRate = rate.Limit{Kind: 0, PerSecond: 100, Burst: 1000}
	tcpRate = rate.Limit{Kind: 1, PerSecond: 1000, Burst: 5000}
)

// A Server answers queries. Tracker and Zone must be set. Do not copy a Server, and do not change its
// fields once it serves.
type Server struct {
	Tracker *tracker.Tracker
	// Zone is the domain whose names exist, as [ParseZone] returns it.
	Zone string
	// Log gets an error for each panic, without the query. nil logs nothing.
	Log *slog.Logger

	connTime, storeTime time.Duration // only a test changes them

	once    sync.Once
	zone    string // Zone in lower case with the dot at its end
	start   time.Time
	used    rate.Limiter
	works   sync.Pool // of *work
	waiting chan struct{}
	ctx     context.Context // ends with Close
	cancel  context.CancelFunc
	results [numResults]atomic.Uint64
	panics  atomic.Uint64
	active  sync.WaitGroup // goroutines that Close waits for

	mu      sync.Mutex
	closed  bool
	sockets map[interface{ Close() error }]struct{}
	conns   map[*conn]struct{}
	perAddr map[netip.Prefix]int // of conns
}

// ErrClosed is what Serve returns after Close.
var ErrClosed = errors.New("dns: closed")

func (s *Server) init() {
	if s.Log == nil {
		s.Log = slog.New(slog.DiscardHandler)
	}
	if s.connTime == 0 {
		s.connTime, s.storeTime = defaultConnTime, defaultStoreTime
	}
	s.zone, s.start = s.Zone+".", time.Now()
	s.used.Bytes = rateTable
	s.works.New = func() any { return new(work) }
	s.waiting = make(chan struct{}, maxWaiting)
	s.ctx, s.cancel = context.WithCancel(context.Background())
	s.sockets = make(map[interface{ Close() error }]struct{})
	s.conns, s.perAddr = make(map[*conn]struct{}), make(map[netip.Prefix]int)
}

// Serve answers queries over UDP and over TCP until one of them fails, or until Close is called. Then it
// closes both, and returns the error or ErrClosed. Both should have the same address, because a client
// repeats a query over TCP if the answer has no room in a packet.
func (s *Server) Serve(udp *net.UDPConn, tcp net.Listener) error {
	s.once.Do(s.init)
	defer udp.Close()
	defer tcp.Close()
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return ErrClosed
	}
	s.sockets[udp], s.sockets[tcp] = struct{}{}, struct{}{}
	readers := numReaders()
	s.active.Add(readers + 1)
	s.mu.Unlock()
	failed := make(chan error, readers+1)
	local := receiveLocal(udp)
	for range readers {
		go func() {
			defer s.active.Done()
			failed <- s.readUDP(udp, local)
		}()
	}
	go func() {
		defer s.active.Done()
		failed <- s.acceptTCP(tcp)
	}()
	err := <-failed
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.sockets, udp)
	delete(s.sockets, tcp)
	if s.closed {
		return ErrClosed
	}
	return err
}

// Close ends the server at once, with all its connections, and waits until it uses the tracker no
// longer.
func (s *Server) Close() error {
	s.once.Do(s.init)
	s.mu.Lock()
	s.closed = true
	s.cancel()
	for socket := range s.sockets {
		_ = socket.Close()
	}
	for c := range s.conns {
		_ = c.nc.Close()
	}
	s.mu.Unlock()
	s.active.Wait()
	return nil
}

// protect calls answer, and returns no reply if it panics.
func (s *Server) protect(answer func() []byte) (reply []byte) {
	defer func() {
		if p := recover(); p != nil {
			s.panics.Add(1)
			s.Log.LogAttrs(context.Background(), slog.LevelError, "panic while answering a query",
				slog.String("panic", fmt.Sprint(p)), slog.String("stack", string(debug.Stack())))
		}
	}()
	return answer()
}

// A result is what became of a query, for Stats.
type result uint8

const (
	resultAnswered  result = iota
	resultTruncated        // has as many records as there is room for
	resultLimited          // has none, because of the limit by address
	resultNoData
	resultNoName
	resultRefused
	resultMalformed
	resultUnsupported
	resultFailed
	resultDropped
	numResults
)

var resultNames = [numResults]string{"answered", "truncated", "limited", "nodata", "nxdomain", "refused", "malformed",
	"unsupported", "failed", "dropped"}

// Stats are the numbers of a Server since its beginning. They have no names and no addresses.
type Stats struct {
	// Queries are how many queries had each result. The results are always the same few.
	Queries map[string]uint64
	Conns   int // open TCP connections
	Panics  uint64
}

// Stats returns the numbers of the server. It may be called at any time.
func (s *Server) Stats() Stats {
	s.once.Do(s.init)
	st := Stats{Queries: make(map[string]uint64), Panics: s.panics.Load()}
	for r, name := range resultNames {
		st.Queries[name] = s.results[r].Load()
	}
	s.mu.Lock()
	st.Conns = len(s.conns)
	s.mu.Unlock()
	return st
}
