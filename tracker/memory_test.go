package tracker_test

import (
	"fmt"
	"net/netip"
	"runtime"
	"testing"
	"testing/synctest"
	"time"

	"ntrack/announce"
	"ntrack/tracker"
	"ntrack/tracker/storetest"
)

func TestMemory(t *testing.T) {
	storetest.Run(t, func(*testing.T) tracker.Store { return tracker.NewMemory() })
}

// Nothing about anybody kept: what nobody asks for again is forgotten all the same, and then no
// timer is left that would keep the store alive.
func TestMemoryForgets(t *testing.T) {
	forgotten := make(chan bool)
	synctest.Test(t, func(t *testing.T) {
		m := tracker.NewMemory()
		for i := range 1000 {
			_, _, err := m.Announce(t.Context(), fmt.Appendf(nil, "k%d", i), announce.Peer{Endpoint: netip.MustParseAddrPort("192.0.2.1:1")}, 150*time.Second, 0, nil)
			if err != nil {
				t.Fatal(err)
			}
		}
		if n := m.Tracks(); n != 1000 {
			t.Fatalf("%d tracks", n)
		}
		time.Sleep(161 * time.Second)
		synctest.Wait()
		if n := m.Tracks(); n != 0 {
			t.Errorf("%d tracks left, 11 s after the last peer lapsed", n)
		}
		runtime.AddCleanup(m, func(c chan bool) { close(c) }, forgotten)
	})
	deadline := time.After(10 * time.Second)
	for {
		runtime.GC()
		select {
		case <-forgotten:
			return
		case <-deadline:
			t.Fatal("an empty store is not garbage: a timer has it")
		case <-time.After(time.Millisecond):
		}
	}
}
