package server

import "time"

// SetUserTimeout sets a time that a test can wait for.
func (s *Server) SetUserTimeout(d time.Duration) { s.userTimeout = d }

// Conns returns the number of open connections, and Goroutines that of those with a goroutine.
func (s *Server) Conns() int {
	s.limits.mu.Lock()
	defer s.limits.mu.Unlock()
	return s.limits.admitted + s.limits.refused
}

func (s *Server) Goroutines() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.conns)
}

// Silent returns the number of connections that have not sent a request yet.
func (s *Server) Silent() (n int) {
	s.limits.mu.Lock()
	defer s.limits.mu.Unlock()
	for q := range s.limits.queues {
		if _, size := q.oldest(); !q.answered {
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
