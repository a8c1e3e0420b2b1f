package valkey

import (
	"context"
	"fmt"
	"net/netip"
	"strconv"
	"sync"
	"testing"
	"time"

	"ntrack/announce/wire"
	"ntrack/tracker/store"
	"ntrack/tracker/store/valkey/valkeytest"
)

// openReal opens a store in real time.
func openReal(t *testing.T, e *valkeytest.Engine) *Store {
	t.Helper()
	s, err := Open(t.Context(), Config{URL: e.URL()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	return s
}

// A watcher applies the changes of a subscription.
type watcher struct {
	t     *testing.T
	sub   store.Subscription
	wake  chan struct{}
	peers map[netip.AddrPort]bool
	left  int
}

func watch(t *testing.T, s *Store, key, self string) *watcher {
	t.Helper()
	w := &watcher{t: t, wake: make(chan struct{}, 1), peers: make(map[netip.AddrPort]bool)}
	peers, _, sub, err := s.Subscribe(t.Context(), []byte(key), wire.Peer{Endpoint: netip.MustParseAddrPort(self)}, func() {
		select {
		case w.wake <- struct{}{}:
		default:
		}
	}, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(sub.Close)
	for _, p := range peers {
		w.peers[p.Endpoint] = true
	}
	w.sub = sub
	return w
}

// until waits until the watcher sees this many peers.
func (w *watcher) until(what string, n int) {
	w.t.Helper()
	timeout := time.After(20 * time.Second)
	for {
		for {
			batch, live := w.sub.Next()
			if !live {
				w.t.Fatalf("%s: the subscription has ended", what)
			}
			if batch == nil {
				break
			}
			for _, c := range batch.Changes {
				if c.Joined == w.peers[c.Endpoint] {
					w.t.Errorf("%s: %v joined: %v, and it had already", what, c.Endpoint, c.Joined)
				}
				if delete(w.peers, c.Endpoint); c.Joined {
					w.peers[c.Endpoint] = true
				} else {
					w.left++
				}
			}
		}
		if len(w.peers) == n {
			return
		}
		select {
		case <-w.wake:
		case <-timeout:
			w.t.Fatalf("%s: %d peers, want %d", what, len(w.peers), n)
		}
	}
}

// subscribeMany has members subscribe at the same time.
func subscribeMany(t *testing.T, s *Store, key string, n int) []store.Subscription {
	t.Helper()
	subs := make([]store.Subscription, n)
	var g sync.WaitGroup
	for i := range n {
		g.Go(func() {
			e := netip.AddrPortFrom(netip.AddrFrom4([4]byte{198, 51, 100, 1}), uint16(1+i))
			_, _, sub, err := s.Subscribe(t.Context(), []byte(key), wire.Peer{Endpoint: e}, func() {}, nil)
			if err != nil {
				t.Error(err)
				return
			}
			subs[i] = sub
		})
	}
	g.Wait()
	if t.Failed() {
		t.FailNow()
	}
	return subs
}

// countOf returns how many peers a look counts.
func countOf(t *testing.T, s *Store, key string) int {
	t.Helper()
	_, res, err := s.Look(context.Background(), []byte(key), netip.MustParseAddr("192.0.2.1"), store.Want{}, nil)
	if err != nil {
		t.Fatal(err)
	}
	return res.Count
}

// A thousand streams of one track begin and end at once, and another tracker sees it.
func TestManyStreams(t *testing.T) {
	t.Parallel()
	const members = 1000
	e := valkeytest.Start(t, valkeytest.Options{})
	a, b := openReal(t, e), openReal(t, e)
	w := watch(t, b, "k", "192.0.2.9:0")
	subs := subscribeMany(t, a, "k", members)
	w.until("all subscribe", members)
	for _, sub := range subs {
		sub.Close()
	}
	w.until("all have closed their streams", 0)
	if n := countOf(t, a, "k"); n != 0 {
		t.Errorf("%d peers are listed", n)
	}

	// The end of a store closes its streams.
	subscribeMany(t, a, "k", members)
	w.until("all subscribe again", members)
	a.Close()
	w.until("the store is closed", 0)
	if w.left != 2*members {
		t.Errorf("%d leaves, want %d", w.left, 2*members)
	}
}

// The streams of a tracker that hands them over keep their peers listed, until they are back.
func TestKeepHolds(t *testing.T) {
	t.Parallel()
	e := valkeytest.Start(t, valkeytest.Options{})
	a, b := openReal(t, e), openReal(t, e)
	w := watch(t, b, "k", "192.0.2.9:0")
	subs := subscribeMany(t, a, "k", 50)
	w.until("all subscribe", 50)
	a.KeepHolds()
	for _, sub := range subs {
		sub.Close()
	}
	a.Close()
	back := subscribeMany(t, b, "k", 50)
	marker := watch(t, b, "k", "203.0.113.1:1") // its join comes after any leave
	w.until("the streams are back", 51)
	if w.left != 0 {
		t.Errorf("%d peers left, though they came back", w.left)
	}
	for _, sub := range back {
		sub.Close()
	}
	w.until("the streams end", 1)
	marker.sub.Close()
	w.until("the last stream ends", 0)
}

// A call of Subscribe returns when its context ends, and leaves nothing behind.
func TestSubscribeCanceled(t *testing.T) {
	t.Parallel()
	e := valkeytest.Start(t, valkeytest.Options{})
	s := openReal(t, e)
	e.Suspend()
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	for i := range 3 {
		self := netip.MustParseAddrPort(fmt.Sprintf("192.0.2.1:%d", i))
		if _, _, sub, err := s.Subscribe(ctx, []byte("k"), wire.Peer{Endpoint: self}, func() {}, nil); err == nil || sub != nil {
			t.Errorf("port %d: %v", i, err)
		}
	}
	if st := s.Stats(); st.Watched != 0 || st.Held != 0 {
		t.Errorf("%d tracks are watched, and %d peers held", st.Watched, st.Held)
	}
	e.Resume()
	w := watch(t, s, "k", "192.0.2.9:0")
	w.until("the database is back", 0)
}

// A Leave at another tracker ends the stream of a peer even if this tracker has put the peer back between
// the Leave and its message, also while this tracker hands its streams over.
func TestLeaveAfterPutBack(t *testing.T) {
	t.Parallel()
	e := valkeytest.Start(t, valkeytest.Options{})
	s := openReal(t, e)
	leaveAfterPutBack(t, e, s)
	s.KeepHolds()
	leaveAfterPutBack(t, e, s)
}

func leaveAfterPutBack(t *testing.T, e *valkeytest.Engine, s *Store) {
	t.Helper()
	self := netip.MustParseAddrPort("192.0.2.1:1")
	member := watch(t, s, "k", self.String())
	w := watch(t, s, "k", "192.0.2.9:0")
	k := s.keysOf([]byte("k"))
	set := k.sets[setOf(self.Addr())]
	e.Must("ZREM", set, memberOf(self))
	e.Must("SPUBLISH", k.channel, string(kindTouched)+memberOf(self))
	for began := time.Now(); e.Must("ZSCORE", set, memberOf(self)) == nil; {
		if time.Since(began) > 20*time.Second {
			t.Fatal("the peer is not put back")
		}
	}
	e.Must("SPUBLISH", k.channel, string(kindLeft)+memberOf(self))
	w.until("the peer has left", 0)
	for timeout := time.After(20 * time.Second); ; {
		if _, live := member.sub.Next(); !live {
			break
		}
		select {
		case <-member.wake:
		case <-timeout:
			t.Fatal("the stream of the peer has not ended")
		}
	}
}

// Another tracker, whose stream of a peer ended, has shortened the lease. This tracker, which has a stream of the
// peer too, writes its lease again when it reads the peer, and not only at the next renewal after minutes.
func TestShortenedLease(t *testing.T) {
	t.Parallel()
	e := valkeytest.Start(t, valkeytest.Options{})
	s, err := Open(t.Context(), Config{URL: e.URL(), Lease: 10 * time.Minute})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	self := netip.MustParseAddrPort("192.0.2.1:1")
	watch(t, s, "k", self.String())
	k := s.keysOf([]byte("k"))
	set := k.sets[setOf(self.Addr())]
	for range 2 { // the first renewal may come during the first round
		short := s.leaseNow(time.Minute).float()
		e.Must("ZADD", set, strconv.FormatFloat(short, 'f', 1, 64), memberOf(self))
		e.Must("INCR", k.birth) // a message was lost, so all of the track is read
		for began := time.Now(); ; time.Sleep(10 * time.Millisecond) {
			if x, err := strconv.ParseFloat(fmt.Sprint(e.Must("ZSCORE", set, memberOf(self))), 64); err == nil && x > short {
				break
			}
			if time.Since(began) > 20*time.Second {
				t.Fatal("the lease is not written again")
			}
		}
	}
}

// The age of a table is stored with its epoch, so it goes on when all trackers have been restarted. An
// earlier version stored no age, and then it is not known.
func TestAge(t *testing.T) {
	t.Parallel()
	e := valkeytest.Start(t, valkeytest.Options{})
	hourAgo := strconv.FormatInt(time.Now().Add(-time.Hour).Unix(), 10)
	for _, tt := range []struct {
		key, epoch  string
		least, most time.Duration
	}{
		{"new", "", 0, time.Minute},
		{"old", "x-" + hourAgo, time.Hour, time.Hour + time.Minute},
		{"earlier version", "x", -1, -1},
	} {
		s := openReal(t, e)
		if tt.epoch != "" {
			e.Must("SET", s.epochKey(partitionOf([]byte(tt.key))), tt.epoch)
		}
		_, _, sub, err := s.Subscribe(t.Context(), []byte(tt.key), wire.Peer{Endpoint: netip.MustParseAddrPort("192.0.2.1:0")}, func() {}, nil)
		if err != nil {
			t.Fatal(err)
		}
		if age := sub.Age(); age < tt.least || age > tt.most {
			t.Errorf("%s: the table is %v old, want %v to %v", tt.key, age, tt.least, tt.most)
		}
		sub.Close()
	}
}
