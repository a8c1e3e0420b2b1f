package announce_test

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"ntrack/announce"
	"ntrack/tracker"
)

// For 20 s, 200 members join and leave at random, and connections break. After that every watcher has
// the peers that the tracker lists.
func TestChurn(t *testing.T) {
	for name, serve := range serving {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				const members, watchers, lasting = 200, 10, 20 * time.Second
				p, k := new(pipes), key(t, "k")
				p.start(serve(&tracker.Tracker{Interval: time.Minute}))
				defer func() { p.stop() }()
				var watches []*watched
				for i := range watchers {
					watches = append(watches, watch(t, p.client(fmt.Sprintf("198.51.100.%d", i)), one, announce.Request{Key: k}, time.Second))
				}
				over := time.Now().Add(lasting)
				stay := make(chan struct{})
				var churning, all sync.WaitGroup
				for i := range members {
					churning.Add(1)
					all.Go(func() {
						rest := func() { time.Sleep(rand.N(4 * time.Second)) }
						var leave func() error
						for rest(); time.Now().Before(over); rest() {
							if leave == nil {
								leave = start(t, p.client(fmt.Sprintf("192.0.2.%d", i)), one, k, 4000)
							} else {
								if err := leave(); err != nil {
									t.Error(err)
								}
								leave = nil
							}
							if rand.IntN(20) == 0 {
								p.cut(fmt.Sprintf("192.0.2.%d", rand.IntN(members)))
							}
							if rand.IntN(20) == 0 {
								p.cut(fmt.Sprintf("198.51.100.%d", rand.IntN(watchers)))
							}
						}
						churning.Done()
						<-stay
						if leave != nil {
							_ = leave()
						}
					})
				}
				churning.Wait()
				time.Sleep(4 * time.Minute) // the grace after broken connections has ended
				truth := strings.Fields(listed(t, p, k))
				if len(truth) < members/4 || len(truth) > members*3/4 {
					t.Errorf("the tracker lists %d of %d members in the end", len(truth), members)
				}
				for i, w := range watches {
					w.next()
					if got := sorted(texts(w.list)...); got != strings.Join(truth, " ") {
						t.Errorf("watcher %d has %d peers, the tracker lists %d", i, len(w.list), len(truth))
					}
				}
				close(stay)
				all.Wait()
				time.Sleep(4 * time.Minute)
				if got := listed(t, p, k); got != "" {
					t.Errorf("after all have left, the tracker lists %q", got)
				}
				for i, w := range watches {
					if w.next(); len(w.list) != 0 {
						t.Errorf("after all have left, watcher %d has %v", i, w.list)
					}
				}
			})
		})
	}
}

// texts returns the text of each endpoint.
func texts(list []netip.AddrPort) []string {
	var s []string
	for _, e := range list {
		s = append(s, e.String())
	}
	return s
}
