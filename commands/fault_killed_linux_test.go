package commands_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"ntrack/announce"
)

// A members is a crowd of members and watchers of real clients. Nobody leaves, so no client may
// report a leave.
type members struct {
	keys    []announce.Key
	each    int // members of each key
	tracker announce.Tracker
	client  announce.Client // looks at the tracker
	began   atomic.Int64    // members that have had a list
	leaves  sync.Map        // what was reported as having left
}

// join lets members join each key, and one watcher look at each. One member of each key is a client of
// a classic tracker, which polls.
func join(t *testing.T, addr string, keys, each int) *members {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	m := &members{each: each}
	m.client.Timeout = patience // the crowd keeps all CPUs busy
	var all sync.WaitGroup
	t.Cleanup(func() {
		cancel()
		all.Wait()
		m.client.Close()
	})
	native, err := announce.ParseTracker(addr)
	if err != nil {
		t.Fatal(err)
	}
	classic, err := announce.ParseTracker("http://" + addr + "/announce")
	if err != nil {
		t.Fatal(err)
	}
	m.tracker = native
	for k := range keys {
		key, err := announce.ParseKey(fmt.Sprintf("urn:btih:%040x", k+1)) // one track for both interfaces
		if err != nil {
			t.Fatal(err)
		}
		m.keys = append(m.keys, key)
		for i := range each + 1 {
			at, port := native, uint16(10_000+k*each+i)
			switch i {
			case 0:
				at = classic
			case each:
				port = 0 // the watcher
			}
			all.Go(func() {
				var c announce.Client
				defer c.Close()
				began := false
				for ev, err := range c.Watch(ctx, []announce.Tracker{at}, announce.Request{Key: key, Port: port}) {
					switch {
					case err != nil:
					case ev.Type == announce.EventLeave:
						m.leaves.Store(fmt.Sprintf("%s, to port %d of %s", ev.Peer, port, key), time.Now())
					case !began:
						began = true
						m.began.Add(1)
					}
				}
			})
		}
	}
	return m
}

// awaitAll waits until the tracker lists all members, and until every client has had its first list. It
// returns how long that took for the members with a stream, and for all.
func (m *members) awaitAll(t *testing.T) (streams, all time.Duration) {
	t.Helper()
	began := time.Now()
	for all == 0 {
		if time.Since(began) > patience {
			t.Fatal("not all members are back")
		}
		time.Sleep(20 * time.Millisecond)
		least := m.each
		for _, k := range m.keys {
			reply, err := m.client.List(t.Context(), m.tracker, announce.Request{Key: k})
			if err != nil {
				t.Fatal(err)
			}
			least = min(least, reply.Count)
		}
		if least >= m.each-1 && m.began.Load() >= int64(len(m.keys)*m.each) && streams == 0 {
			streams = time.Since(began)
		}
		if least == m.each && m.began.Load() == int64(len(m.keys)*(m.each+1)) {
			all = time.Since(began)
		}
	}
	return streams, all
}

// A tracker is killed under a thousand members, as by kill -9 or a lack of memory, and started again:
// at once, again while the members return, and after longer than a ttl. They are all back, and nobody
// is reported as having left. (The crowd keeps all CPUs busy, so no other test runs beside this one.)
func TestFaultTrackerKilled(t *testing.T) {
	const interval, ttl = 6 * time.Second, 15 * time.Second
	m := newManager(t, "")
	file := filepath.Join(t.TempDir(), "addr")
	args := []string{"--addr-file", file, "--interval", interval.String()}
	// The port of a tracker that is down may be given to a client. So the tracker is at an address
	// from which nobody connects.
	s := m.start(t, append(args, "--listen", "127.0.201.1:0")...)
	m.await(t, "READY=1")
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	addr := strings.TrimSpace(string(b))
	crowd := join(t, addr, 10, 100)
	crowd.awaitAll(t)
	crowd.leaves.Clear() // a member whose first request timed out on a busy machine has left, and joined again
	for _, step := range []struct {
		about string
		away  time.Duration
		whole bool // wait until all are back
	}{
		{"started again at once", 0, true},
		{"killed again while they return", 0, false},
		{"away for longer than a ttl", ttl + time.Second, true},
	} {
		s.signal(t, syscall.SIGKILL)
		<-s.ended
		time.Sleep(step.away)
		s = m.start(t, append(args, "--listen", addr)...)
		m.await(t, "READY=1")
		if step.whole {
			streams, all := crowd.awaitAll(t)
			t.Logf("%s: members with a stream are back after %v, all after %v", step.about, streams, all)
		}
	}
	time.Sleep(ttl + time.Second) // the grace of all that would be missing ends
	crowd.leaves.Range(func(what, when any) bool {
		t.Errorf("left: %s, %v ago", what, time.Since(when.(time.Time)))
		return true
	})
}
