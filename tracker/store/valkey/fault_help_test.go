package valkey_test

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"time"

	"ntrack/announce/wire"
	"ntrack/tracker/store"
	"ntrack/tracker/store/valkey"
)

const (
	// repaired is how long a watcher may see something else than the table has, whatever got lost: the
	// interval of the repairs, and the second that a change may take.
	repaired = 6 * time.Second
	// patience is the longest wait for anything else.
	patience = 60 * time.Second
	// lateness is how long after a peer has come back its leave may still be reported.
	lateness = 3 * time.Second
	// longTTL is longer than any test.
	longTTL = time.Hour
)

// open opens the table as one tracker does, and closes it when the test ends.
func open(t *testing.T, c valkey.Config) *valkey.Store {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	s, err := valkey.Open(ctx, c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	return s
}

// peer returns the endpoint with this number.
func peer(i int) netip.AddrPort {
	return netip.AddrPortFrom(netip.AddrFrom4([4]byte{203, byte(i >> 16), byte(i >> 8), byte(i)}), 6881)
}

// peers returns the endpoints with these numbers, without the last one.
func peers(from, to int) (all []netip.AddrPort) {
	for i := from; i < to; i++ {
		all = append(all, peer(i))
	}
	return all
}

func announce(s *valkey.Store, key string, e netip.AddrPort, ttl time.Duration) (store.Result, error) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	_, r, err := s.Announce(ctx, []byte(key), wire.Peer{Endpoint: e}, func(store.Size) time.Duration { return ttl }, store.Want{Peers: 50}, nil)
	return r, err
}

func leave(s *valkey.Store, key string, e netip.AddrPort) error {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	return s.Leave(ctx, []byte(key), e)
}

// look returns the peers of a track, sorted, except for one.
func look(s *valkey.Store, key string, except netip.AddrPort) ([]netip.AddrPort, error) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	given, _, err := s.Look(ctx, []byte(key), netip.MustParseAddr("192.0.2.9"), store.Want{Peers: 20_000}, nil)
	var all []netip.AddrPort
	for _, p := range given {
		if p.Endpoint != except {
			all = append(all, p.Endpoint)
		}
	}
	slices.SortFunc(all, netip.AddrPort.Compare)
	return all, err
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// eventually waits until ok returns nil, at most for so long.
func eventually(t *testing.T, within time.Duration, ok func() error) {
	t.Helper()
	deadline := time.Now().Add(within)
	for {
		err := ok()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("after %v still: %v", within, err)
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// A ledger has the peers that are listed for certain: the test has listed them, and nothing can have
// removed them. A leave of such a peer is false.
type ledger struct {
	mu    sync.Mutex
	peers map[listed]certainty
}

type listed struct {
	key  string
	peer netip.AddrPort
}

type certainty struct {
	certain bool
	since   time.Time // zero if the peer has never been uncertain
}

// stays says that the peer is listed for certain from now on.
func (l *ledger) stays(key string, all ...netip.AddrPort) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.peers == nil {
		l.peers = make(map[listed]certainty)
	}
	for _, e := range all {
		c, known := l.peers[listed{key, e}]
		if known && !c.certain {
			c.since = time.Now()
		}
		c.certain = true
		l.peers[listed{key, e}] = c
	}
}

// goes says that the peer may leave from now on.
func (l *ledger) goes(key string, all ...netip.AddrPort) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.peers == nil {
		l.peers = make(map[listed]certainty)
	}
	for _, e := range all {
		l.peers[listed{key, e}] = certainty{}
	}
}

// mayLeave reports whether a leave of the peer can be true.
func (l *ledger) mayLeave(key string, e netip.AddrPort) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	c := l.peers[listed{key, e}]
	return !c.certain || !c.since.IsZero() && time.Since(c.since) < lateness
}

// A watcher has a subscription, and applies its changes to what it sees. It fails the test at a change
// that changes nothing, and at a leave that is false.
type watcher struct {
	t        *testing.T
	ledger   *ledger
	key      string
	self     netip.AddrPort // with port 0 it only looks
	sub      store.Subscription
	notified chan struct{}
	closing  chan struct{}
	done     chan struct{}
	once     sync.Once

	mu   sync.Mutex
	sees map[netip.AddrPort]bool
	left map[netip.AddrPort]time.Time // when the last leave of a peer was reported
	live bool
}

// subscribe subscribes to a track. A watcher whose self has a port is a member.
func subscribe(t *testing.T, l *ledger, s *valkey.Store, key string, self netip.AddrPort) (*watcher, error) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	w := &watcher{
		t: t, ledger: l, key: key, self: self, live: true,
		notified: make(chan struct{}, 1), closing: make(chan struct{}), done: make(chan struct{}),
		sees: make(map[netip.AddrPort]bool), left: make(map[netip.AddrPort]time.Time),
	}
	notify := func() {
		select {
		case w.notified <- struct{}{}:
		default:
		}
	}
	given, _, sub, err := s.Subscribe(ctx, []byte(key), wire.Peer{Endpoint: self}, notify, nil)
	if err != nil {
		return nil, err
	}
	for _, p := range given {
		if w.sees[p.Endpoint] {
			t.Errorf("%v of %q is given %v twice", self, key, p.Endpoint)
		}
		w.sees[p.Endpoint] = true
	}
	w.sub = sub
	go w.run()
	return w, nil
}

// watch subscribes a watcher that only looks. The end of the test closes it.
func watch(t *testing.T, l *ledger, s *valkey.Store, key string) *watcher {
	t.Helper()
	return member(t, l, s, key, netip.MustParseAddrPort("192.0.2.9:0"))
}

// member subscribes a member. The end of the test closes it.
func member(t *testing.T, l *ledger, s *valkey.Store, key string, self netip.AddrPort) *watcher {
	t.Helper()
	w, err := subscribe(t, l, s, key, self)
	must(t, err)
	t.Cleanup(w.close)
	return w
}

func (w *watcher) run() {
	defer close(w.done)
	for {
		select {
		case <-w.notified:
		case <-w.closing:
			return
		}
		for {
			batch, live := w.sub.Next()
			w.apply(batch, live)
			if batch == nil {
				break
			}
		}
	}
}

func (w *watcher) apply(batch *store.Batch, live bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.live = live
	if batch == nil {
		return
	}
	for _, c := range batch.Changes {
		switch {
		case c.Endpoint == w.self || w.sees[c.Endpoint] == c.Joined:
			w.t.Errorf("%v of %q gets a change of %v (joined: %v) that changes nothing", w.self, w.key, c.Endpoint, c.Joined)
		case c.Joined:
			w.sees[c.Endpoint] = true
		default:
			if !w.ledger.mayLeave(w.key, c.Endpoint) {
				w.t.Errorf("%v of %q gets a leave of %v, which has not left", w.self, w.key, c.Endpoint)
			}
			delete(w.sees, c.Endpoint)
			w.left[c.Endpoint] = time.Now()
		}
	}
}

// close ends the subscription. It may be called again.
func (w *watcher) close() {
	w.once.Do(func() {
		close(w.closing)
		<-w.done
		w.sub.Close()
	})
}

// view returns what the watcher sees, sorted.
func (w *watcher) view() (all []netip.AddrPort, live bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for e := range w.sees {
		all = append(all, e)
	}
	slices.SortFunc(all, netip.AddrPort.Compare)
	return all, w.live
}

// leftAt returns when the last leave of a peer was reported, or zero.
func (w *watcher) leftAt(e netip.AddrPort) time.Time {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.left[e]
}

// agree waits until the watchers see what the table has: these peers, in any order.
func agree(t *testing.T, within time.Duration, s *valkey.Store, key string, want []netip.AddrPort, watchers ...*watcher) {
	t.Helper()
	want = slices.Clone(want)
	slices.SortFunc(want, netip.AddrPort.Compare)
	eventually(t, within, func() error {
		has, err := look(s, key, netip.AddrPort{})
		if err != nil {
			return err
		}
		if !slices.Equal(has, want) {
			return fmt.Errorf("%q has %s", key, difference(has, want))
		}
		for _, w := range watchers {
			sees, live := w.view()
			others := slices.DeleteFunc(slices.Clone(want), func(e netip.AddrPort) bool { return e == w.self })
			if !slices.Equal(sees, others) {
				return fmt.Errorf("%v of %q (live: %v) sees %s", w.self, key, live, difference(sees, others))
			}
			if !live {
				return fmt.Errorf("the subscription of %v to %q has ended", w.self, key)
			}
		}
		return nil
	})
}

// difference says how what is differs from what should be.
func difference(got, want []netip.AddrPort) string {
	minus := func(a, b []netip.AddrPort) []netip.AddrPort {
		d := slices.DeleteFunc(slices.Clone(a), func(e netip.AddrPort) bool { return slices.Contains(b, e) })
		return d[:min(len(d), 5)]
	}
	return fmt.Sprintf("%d peers of %d; too many: %v, too few: %v", len(got), len(want), minus(got, want), minus(want, got))
}

// refused fails the test unless err is nil, or says that the table does not answer now.
func refused(t *testing.T, err error) bool {
	t.Helper()
	if err != nil && !errors.Is(err, store.ErrUnavailable) {
		t.Errorf("%v, want an error that is store.ErrUnavailable", err)
	}
	return err != nil
}

// ended returns an error unless the subscription of a watcher has ended.
func ended(w *watcher) error {
	if _, live := w.view(); live {
		return fmt.Errorf("the subscription of %v to %q has not ended", w.self, w.key)
	}
	return nil
}
