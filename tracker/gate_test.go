package tracker_test

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"ntrack/announce/wire"
	"ntrack/tracker"
	"ntrack/tracker/store"
	"ntrack/tracker/store/memory"
)

// A distantStore is a table that may be slow or away. Set its fields before the calls.
type distantStore struct {
	*memory.Store
	mu   sync.Mutex
	wait chan struct{} // a call returns when it is closed; nil does not wait
	err  error         // what calls return, unless it is nil
}

func (*distantStore) NeverBlocks() bool { return false }

func (s *distantStore) set(wait chan struct{}, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.wait, s.err = wait, err
}

func (s *distantStore) reach(ctx context.Context) error {
	s.mu.Lock()
	wait, err := s.wait, s.err
	s.mu.Unlock()
	if wait != nil {
		select {
		case <-wait:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return err
}

func (s *distantStore) Announce(ctx context.Context, key []byte, p wire.Peer, ttl func(store.Size) time.Duration, want store.Want, dst []wire.Peer) ([]wire.Peer, store.Result, error) {
	if err := s.reach(ctx); err != nil {
		return dst, store.Result{}, err
	}
	if string(key) == "panic" {
		panic("a store with a bug")
	}
	return s.Store.Announce(ctx, key, p, ttl, want, dst)
}

func (s *distantStore) Look(ctx context.Context, key []byte, asker netip.Addr, want store.Want, dst []wire.Peer) ([]wire.Peer, store.Result, error) {
	if err := s.reach(ctx); err != nil {
		return dst, store.Result{}, err
	}
	return s.Store.Look(ctx, key, asker, want, dst)
}

func (s *distantStore) Leave(ctx context.Context, key []byte, endpoint netip.AddrPort) error {
	if err := s.reach(ctx); err != nil {
		return err
	}
	return s.Store.Leave(ctx, key, endpoint)
}

func (s *distantStore) Scrape(ctx context.Context, keys []wire.Key, asker netip.Addr, dst []wire.Track) ([]wire.Track, error) {
	if err := s.reach(ctx); err != nil {
		return dst, err
	}
	return s.Store.Scrape(ctx, keys, asker, dst)
}

func (s *distantStore) Subscribe(ctx context.Context, key []byte, p wire.Peer, notify func(), dst []wire.Peer) ([]wire.Peer, store.Size, store.Subscription, error) {
	if err := s.reach(ctx); err != nil {
		return dst, store.Size{}, nil, err
	}
	return s.Store.Subscribe(ctx, key, p, notify, dst)
}

// distantCalls has a call of each kind. The last one opens a stream.
func distantCalls() (calls []*tracker.Call) {
	for _, c := range []tracker.Call{
		{Method: "GET", Target: []byte("/ntrk/k?port=5")},
		{Method: "GET", Target: []byte("/ntrk/k?port=0")},
		{Method: "DELETE", Target: []byte("/ntrk/k?port=5")},
		{Method: "GET", Target: []byte("/announce?info_hash=k&port=5")},
		{Method: "GET", Target: []byte("/announce?info_hash=k&port=5&event=stopped")},
		{Method: "GET", Target: []byte("/scrape?info_hash=k")},
		{Method: "GET", Target: []byte("/ntrk/k?port=5"), Accept: []byte("text/event-stream")},
	} {
		c.Remote = netip.MustParseAddrPort("192.0.2.1:5")
		calls = append(calls, &c)
	}
	return calls
}

// checkRefused checks that every kind of call is refused at once.
func checkRefused(t *testing.T, tr *tracker.Tracker, reason string) {
	t.Helper()
	for _, c := range distantCalls() {
		target := string(c.Target)
		began := time.Now()
		resp, body := tr.Answer(t.Context(), c, nil)
		text, classic := string(body), !strings.HasPrefix(target, "/ntrk/")
		ok := resp.Status == 503 && text == reason+"\n" && 5*time.Second <= resp.Retry && resp.Retry <= 15*time.Second
		if classic {
			ok = resp.Status == 200 && strings.Contains(text, reason) && strings.HasSuffix(text, "8:retry ini1ee")
		}
		if !ok || time.Since(began) != 0 {
			t.Errorf("%s %s: %d, Retry-After %v, %q, after %v", c.Method, target, resp.Status, resp.Retry, text, time.Since(began))
		}
	}
}

// While a store cannot be reached, every kind of request gets a 503 and a time to come back, which is
// not the same for all. The error of the store is not shown.
func TestStoreUnavailable(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		st := &distantStore{Store: memory.New()}
		tr := &tracker.Tracker{Store: st}
		st.set(nil, fmt.Errorf("secret host: %w", errors.Join(store.ErrUnavailable, context.DeadlineExceeded)))
		checkRefused(t, tr, "the shared table does not answer now")
		if n := tr.Stats().Reasons["store_unavailable"]; n != 7 {
			t.Errorf("%d refusals counted", n)
		}
		retries := map[time.Duration]bool{}
		for range 100 {
			resp, _ := tr.Answer(t.Context(), distantCalls()[0], nil)
			retries[resp.Retry] = true
		}
		if len(retries) < 5 {
			t.Errorf("only %d different times to come back", len(retries))
		}
		st.set(nil, nil)
		if resp, body := tr.Answer(t.Context(), distantCalls()[0], nil); resp.Status != 200 {
			t.Errorf("later: %d, %q", resp.Status, body)
		}
	})
}

// If many calls of a store do not return within half a second, new ones are refused at once until they
// do. Streams go on, and so does what the operator wants.
func TestSlowStore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		st := &distantStore{Store: memory.New()}
		tr := &tracker.Tracker{Store: st}
		calls := distantCalls()
		resp, _ := tr.Answer(t.Context(), calls[len(calls)-1], nil)
		defer resp.Stream.Close()
		answered := make(chan int, 10_000)
		announce := func(n int) {
			for range n {
				go func() {
					resp, _ := tr.Answer(t.Context(), distantCalls()[0], nil)
					answered <- resp.Status
				}()
			}
			synctest.Wait()
		}
		expect := func(n, status int) {
			t.Helper()
			synctest.Wait()
			for range n {
				select {
				case s := <-answered:
					if s != status {
						t.Errorf("status %d, want %d", s, status)
					}
				default:
					t.Fatal("a call does not return")
				}
			}
			if len(answered) != 0 || tr.Waiting() != 0 && status == 200 {
				t.Errorf("%d more answers, %d calls wait", len(answered), tr.Waiting())
			}
		}
		for range 3 { // it opens again each time
			wait := make(chan struct{})
			st.set(wait, nil)
			announce(256)
			time.Sleep(700 * time.Millisecond)
			announce(100) // a few late calls do not matter
			if n := tr.Waiting(); n != 356 || len(answered) > 0 {
				t.Errorf("%d calls wait, %d were answered", n, len(answered))
			}
			time.Sleep(400 * time.Millisecond)
			announce(1) // not late yet
			time.Sleep(300 * time.Millisecond)
			checkRefused(t, tr, "the shared table is slow")
			if _, _, err := st.Store.Announce(t.Context(), []byte("k"), wire.Peer{Endpoint: netip.MustParseAddrPort("192.0.2.2:2")}, func(store.Size) time.Duration { return time.Second }, store.Want{}, nil); err != nil {
				t.Fatal(err)
			}
			time.Sleep(100 * time.Millisecond)
			if out, live := resp.Stream.Append(nil, wakeless{}); !strings.Contains(string(out), "join") || !live {
				t.Errorf("the stream has %q, %t", out, live)
			}
			if err := tr.SetDenial(t.Context(), denial(t, "key bad")); err != nil {
				t.Error(err)
			}
			close(wait)
			expect(357, 200)
			time.Sleep(3 * time.Second) // the peer lapses
			resp.Stream.Append(nil, wakeless{})
		}
		wait := make(chan struct{})
		st.set(wait, nil)
		announce(4096)
		checkRefused(t, tr, "the shared table is slow") // too many, though none is late
		announce(10)
		expect(10, 503)
		close(wait)
		expect(4096, 200)
		if n := tr.Stats().Reasons["store_slow"]; n != 4*7+10 {
			t.Errorf("%d refusals counted", n)
		}
	})
}

type wakeless struct{}

func (wakeless) Wake() {}

// A panic of the store, and a client that goes away, leave no call behind.
func TestGateForgets(t *testing.T) {
	st := &distantStore{Store: memory.New()}
	tr := &tracker.Tracker{Store: st}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	for range 300 {
		func() {
			defer func() { _ = recover() }()
			broken := distantCalls()[0]
			broken.Target = []byte("/ntrk/panic?port=1")
			tr.Answer(t.Context(), broken, nil)
			t.Error("no panic")
		}()
	}
	st.set(make(chan struct{}), nil)
	resp, body := tr.Answer(ctx, distantCalls()[0], nil)
	if resp.Status != 503 || !strings.Contains(string(body), "in time") || tr.Waiting() != 0 {
		t.Errorf("%d, %q, %d calls wait", resp.Status, body, tr.Waiting())
	}
}
