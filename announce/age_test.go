package announce_test

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"ntrack/announce"
	"ntrack/tracker"
)

// The first event has the age of the tracker's table. A restarted tracker has a new table.
func TestStreamAge(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPipes(t)
		age := func() time.Duration {
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			for ev, err := range p.client("192.0.2.9").Watch(ctx, one, announce.Request{Key: key(t, "k")}) {
				if err != nil {
					t.Fatal(err)
				}
				return ev.Age
			}
			return -1
		}
		if got := age(); got != 0 {
			t.Errorf("a new table is %v old", got)
		}
		time.Sleep(time.Hour)
		if got := age().Round(time.Minute); got != time.Hour {
			t.Errorf("after an hour the table is %v old", got)
		}
		p.stop()
		p.start(tracker.Handler(&tracker.Tracker{Interval: time.Minute}))
		if got := age(); got != 0 {
			t.Errorf("the table of a restarted tracker is %v old", got)
		}
	})
}
