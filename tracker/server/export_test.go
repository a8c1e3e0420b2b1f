package server

import "time"

// SetStreamTCPTimeout sets a time that a test can wait for.
func (s *Server) SetStreamTCPTimeout(d time.Duration) { s.streamTCPTimeout = d }

// Conns returns the number of open connections, and Goroutines that of those with a goroutine.
func (s *Server) Conns() int {
	s.limiter.mu.Lock()
	defer s.limiter.mu.Unlock()
	return s.limiter.numAdmitted + s.limiter.numRefused
}

func (s *Server) Goroutines() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.conns)
}

// Silent returns the number of connections that have not sent a request yet.
func (s *Server) Silent() (n int) {
	s.limiter.mu.Lock()
	defer s.limiter.mu.Unlock()
	for q := range s.limiter.queues {
		if _, size := q.oldest(); q.silent {
			n += size
		}
	}
	return n
}

// LargestBuffer returns the size of the largest buffer that is kept for other connections.
func (s *Server) LargestBuffer() (n int) {
	for range 64 {
		b := s.buffers.Get().(*buffers)
		n = max(n, cap(b.out), cap(b.body))
	}
	return n
}

// DetectStall watches a client whose connection is in the state that state returns, from when start
// is called until stop is. It calls stalled if the client does not read for as long as limit.
func DetectStall(limit time.Duration, state func() (pending bool, acked uint64, sinceHeard time.Duration), stalled func()) (start, stop func()) {
	d := &stallDetector{limit: limit, stalled: stalled, state: func() (sendState, bool) {
		pending, acked, sinceHeard := state()
		return sendState{pending, acked, sinceHeard}, true
	}}
	return d.afterWrite, d.stop
}
