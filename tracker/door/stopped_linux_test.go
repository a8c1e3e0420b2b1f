package door_test

import (
	"bytes"
	"testing"

	"ntrack/tracker"
	"ntrack/tracker/door"
)

// A loop that is late, since the process was stopped, answers what has come before it closes anything.
func TestLoopStopped(t *testing.T) {
	s := &door.Server{Tracker: &tracker.Tracker{}}
	out, err := s.Overdue([]byte(hello))
	if err != nil || !bytes.HasPrefix(out, []byte("HTTP/1.1 200 OK\r\n")) {
		t.Errorf("one that has sent a request: %q, %v", out, err)
	}
	if out, err = s.Overdue(nil); err != nil || len(out) > 0 {
		t.Errorf("one that has not: %q, %v", out, err)
	}
	if n := s.Conns(); n != 0 {
		t.Errorf("%d connections are still counted", n)
	}
}
