package commands

import (
	"testing"
	"testing/synctest"
	"time"
)

// An absence reports once that all trackers have been away for a whole ttl.
func TestAbsence(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		lost := make(chan ending, 1)
		a := absence{lost: lost}
		after := func(d time.Duration, want int) {
			t.Helper()
			time.Sleep(d)
			synctest.Wait()
			if len(lost) != want {
				t.Fatalf("after %v lost has %d elements, want %d", d, len(lost), want)
			}
		}
		a.begin() // no tracker has answered yet
		after(time.Hour, 0)
		a.end()
		a.ttl = 38 * time.Second
		after(time.Hour, 0)
		a.begin()
		after(37*time.Second, 0)
		a.end() // a tracker is back within the ttl
		after(time.Hour, 0)
		a.begin()
		after(37*time.Second, 0)
		a.begin() // the trackers are still away
		after(999*time.Millisecond, 0)
		after(time.Millisecond, 1)
		<-lost
		after(time.Hour, 0) // there is no second report
		a.end()
		a.begin()
		after(38*time.Second, 1)
		a.end()
		a.begin()
		after(time.Hour, 1) // the first report is still unread
		<-lost
		a.end()
		a.begin()
		after(38*time.Second, 1)
	})
}

// The pause between two tries doubles up to a minute.
func TestLonger(t *testing.T) {
	pause, all := time.Duration(0), time.Duration(0)
	for _, want := range []time.Duration{1, 2, 4, 8, 16, 32, 60, 60} {
		if pause = longer(pause); pause != want*time.Second {
			t.Errorf("after %v another %v, want %v", all, pause, want*time.Second)
		}
		all += pause
	}
}
