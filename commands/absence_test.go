package commands

import (
	"testing"
	"testing/synctest"
	"time"
)

func TestAbsence(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		lost := make(chan struct{}, 1)
		a := absence{lost: lost}
		after := func(d time.Duration, want int) {
			t.Helper()
			time.Sleep(d)
			synctest.Wait()
			if len(lost) != want {
				t.Fatalf("after %v it is lost %d times, want %d", d, len(lost), want)
			}
		}
		a.begin() // what has never been there
		after(time.Hour, 0)
		a.end()
		a.ttl = 38 * time.Second
		after(time.Hour, 0)
		a.begin()
		after(37*time.Second, 0)
		a.end() // it is back within the ttl
		after(time.Hour, 0)
		a.begin()
		after(37*time.Second, 0)
		a.begin() // away it was all the time
		after(999*time.Millisecond, 0)
		after(time.Millisecond, 1)
		<-lost
		after(time.Hour, 0) // which is said once
		a.end()
		a.begin()
		after(38*time.Second, 1)
		a.end()
		a.begin()
		after(time.Hour, 1) // nobody has asked yet
		<-lost
		a.end()
		a.begin()
		after(38*time.Second, 1)
	})
}
