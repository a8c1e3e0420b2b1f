package server

import (
	"sync/atomic"
	"time"
)

// Stats are the numbers of a Server since it began.
type Stats struct {
	// Silent, Idle, Stream and Active are the open connections by state. A silent one has not sent a
	// request, an idle one waits for its next request, and an active one is anything else: the server
	// reads, serves or sends. Refused ones get status 503.
	Silent, Idle, Stream, Active, Refused int

	Accepted uint64 // the connections that were admitted
	// RefusedPerAddr, RefusedConns and RefusedRate are the connections that got no place, by the limit
	// that they exceeded: those of one address, all, or the new ones of one address per second.
	// Evicted are the idle connections that made room for a new one. OutOfFiles is how
	// often no connection could be accepted because no file descriptor was free.
	RefusedPerAddr, RefusedConns, RefusedRate, Evicted, OutOfFiles uint64
	Panics                                                         uint64

	Memory, MaxMemory int64 // bytes of all connections by their weights, and the limit; 0 is no limit

	MaxConns, MaxConnsPerAddr int // the limits in effect; less than 0 is no limit

	Latency Histogram
}

// A Histogram has how long clients waited. On Linux without TLS, one value is the time in which a
// worker served everything that had arrived, so it bounds the time of each of these requests. If the
// store may block, one value is the time until a worker had the replies to a batch of one connection.
// Otherwise one value is one request.
type Histogram struct {
	Counts []uint64      // for each of Bounds, the values up to it and above the one before; one more has the rest
	Bounds []float64     // in seconds
	Sum    time.Duration // of all values
}

// bounds are those of the histogram: from a usual announce to what a client notices.
var bounds = [...]time.Duration{50 * time.Microsecond, 200 * time.Microsecond, time.Millisecond, 5 * time.Millisecond,
	25 * time.Millisecond, 100 * time.Millisecond, 500 * time.Millisecond, 2 * time.Second}

// A latency counts values for a Histogram.
type latency struct {
	_      [64]byte // keeps it off the cache line of what is before
	counts [len(bounds) + 1]atomic.Uint64
	sum    atomic.Int64
}

func (l *latency) observe(d time.Duration) {
	i := 0
	for i < len(bounds) && d > bounds[i] {
		i++
	}
	l.counts[i].Add(1)
	l.sum.Add(int64(d))
}

// Stats returns the numbers of the server. It may be called at any time, and delays no connection.
func (s *Server) Stats() Stats {
	s.once.Do(s.init)
	l := &s.limiter
	l.mu.Lock()
	st := l.stats
	for q := range l.queues {
		switch _, n := q.oldest(); q.kind {
		case silentConns:
			st.Silent += n
		case idleConns:
			st.Idle += n
		}
	}
	st.Refused, st.MaxConns, st.MaxConnsPerAddr = l.numRefused, l.maxConns, l.maxPerAddr
	open := l.numAdmitted
	st.Memory, st.MaxMemory = l.memory.sum, s.MaxMemory
	l.mu.Unlock()
	st.Stream = s.Tracker.Stats().Streams
	st.Active = max(0, open-st.Silent-st.Idle-st.Stream) // the counts are not of the same moment
	st.OutOfFiles, st.Panics = s.outOfFiles.Load(), s.panics.Load()
	for i := range s.latency.counts {
		st.Latency.Counts = append(st.Latency.Counts, s.latency.counts[i].Load())
	}
	for _, b := range bounds {
		st.Latency.Bounds = append(st.Latency.Bounds, b.Seconds())
	}
	st.Latency.Sum = time.Duration(s.latency.sum.Load())
	return st
}
