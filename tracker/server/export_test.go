package server

import "time"

// SetUserTimeout makes it a short test.
func (s *Server) SetUserTimeout(d time.Duration) { s.userTimeout = d }

// Conns are all connections, and Open those that have a goroutine.
func (s *Server) Conns() int {
	s.census.mu.Lock()
	defer s.census.mu.Unlock()
	return s.census.all + s.census.refused
}

func (s *Server) Open() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.open)
}

// Silent are the connections that have yet to send a request.
func (s *Server) Silent() (n int) {
	s.census.mu.Lock()
	defer s.census.mu.Unlock()
	for w := range s.census.waiting {
		if _, size := w.oldest(); !w.answered {
			n += size
		}
	}
	return n
}

// Kept is the size of the largest buffer that is kept for those who come next.
func (s *Server) Kept() (n int) {
	for range 64 {
		o := s.outputs.Get().(*output)
		n = max(n, cap(o.out), cap(o.body))
	}
	return n
}

// WatchReader looks after a client that reads as state says, from when begin is called, until it is
// cut or stop is called.
func WatchReader(most time.Duration, state func() (waits bool, taken uint64, heard time.Duration), cut func()) (begin, stop func()) {
	r := &reader{most: most, cut: cut, state: func() (sent, bool) {
		waits, taken, heard := state()
		return sent{waits, taken, heard}, true
	}}
	return r.sent, r.stop
}
