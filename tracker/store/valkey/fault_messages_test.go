package valkey_test

import (
	"fmt"
	"math/rand/v2"
	"net"
	"sync"
	"testing"
	"time"

	"ntrack/tracker/store/valkey"
	"ntrack/tracker/store/valkey/valkeytest"
)

// Some messages to a tracker are lost, doubled, or late. What its watchers see is what the table has,
// within the interval of the repairs.
func TestFaultMessages(t *testing.T) {
	t.Parallel()
	engine := valkeytest.Start(t, valkeytest.Options{})
	for name, fate := range map[string]func(n int) (int, time.Duration){
		"OneInTenLost": func(n int) (int, time.Duration) {
			if n%10 == 7 {
				return 0, 0
			}
			return 1, 0
		},
		"AllLost": func(int) (int, time.Duration) { return 0, 0 },
		"Doubled": func(int) (int, time.Duration) { return 2, 0 },
		"Late": func(int) (int, time.Duration) {
			return 1, time.Duration(rand.Int64N(int64(2 * time.Second)))
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			prefix := "messages" + name
			listener, err := net.Listen("tcp", "127.0.0.1:0")
			must(t, err)
			r, url := startRelay(t, listener, engine.URL(), fate)
			a := open(t, valkey.Config{URL: engine.URL(), Prefix: prefix})
			b := open(t, valkey.Config{URL: url, Prefix: prefix})
			const tracks, perTrack, rounds = 20, 10, 5
			l := &ledger{}
			key := func(k int) string { return fmt.Sprintf("track %d", k) }
			var watchers [tracks]*watcher
			for k := range tracks {
				l.stays(key(k), peers(0, 3)...)
				for _, e := range peers(0, 3) {
					_, err := announce(a, key(k), e, longTTL)
					must(t, err)
				}
				watchers[k] = watch(t, l, b, key(k))
			}
			for round := range rounds {
				// Every peer but the first three joins or leaves.
				var changing sync.WaitGroup
				for k := range tracks {
					changing.Go(func() {
						for _, e := range peers(3, perTrack) {
							var err error
							if round%2 == 0 {
								_, err = announce(a, key(k), e, longTTL)
								l.stays(key(k), e)
							} else {
								l.goes(key(k), e)
								err = leave(a, key(k), e)
							}
							if err != nil {
								t.Error(err)
							}
						}
					})
				}
				changing.Wait()
			}
			deadline := time.Now().Add(repaired)
			for k := range tracks {
				agree(t, time.Until(deadline), a, key(k), peers(0, perTrack), watchers[k])
			}
			if n := r.seen(); n == 0 {
				t.Error("no message came by")
			}
		})
	}
}
