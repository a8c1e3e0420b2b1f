package door

import "time"

// SetUserTimeout makes it a short test.
func (s *Server) SetUserTimeout(d time.Duration) { s.userTimeout = d }
