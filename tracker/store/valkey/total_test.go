package valkey

import (
	"fmt"
	"testing"

	"ntrack/tracker/store/valkey/valkeytest"
)

// The peers of a tracker that has died do not count, and its number is removed.
func TestTotalOfDeadTracker(t *testing.T) {
	t.Parallel()
	e := valkeytest.Start(t, valkeytest.Options{})
	s := openReal(t, e)
	now := s.clock.second()
	e.Must("HSET", "ntrk:i", "dead", fmt.Sprint(now-maxRowAge-1, " 1000"), "wrong", "x", "alive", fmt.Sprint(now, " 20"))
	if err := s.exchangeTotal(t.Context()); err != nil {
		t.Fatal(err)
	}
	if st := s.Stats(); st.Peers != 20 || st.Trackers != 2 {
		t.Errorf("%d peers of %d trackers, want 20 of 2", st.Peers, st.Trackers)
	}
	if n := e.Must("HLEN", "ntrk:i").(int64); n != 2 {
		t.Errorf("%d trackers have a number, want 2", n)
	}
}
