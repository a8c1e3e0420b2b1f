package server_test

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"ntrack/announce/wire"
	"ntrack/tracker"
	"ntrack/tracker/server"
	"ntrack/tracker/store"
	"ntrack/tracker/store/memory"
)

// A farStore is a table behind a network: its calls wait while it is held.
type farStore struct {
	*memory.Store
	mu   sync.Mutex
	held chan struct{} // a call waits until it is closed; nil is at once
	deaf atomic.Bool   // calls do not return when their context ends

	now, most atomic.Int32 // how many calls wait
}

func (*farStore) NeverBlocks() bool { return false }

func (s *farStore) hold() (release func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	held := make(chan struct{})
	s.held = held
	return func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		close(held)
		s.held = nil
	}
}

func (s *farStore) reach(ctx context.Context) error {
	n := s.now.Add(1)
	defer s.now.Add(-1)
	for most := s.most.Load(); n > most && !s.most.CompareAndSwap(most, n); most = s.most.Load() {
	}
	s.mu.Lock()
	held := s.held
	s.mu.Unlock()
	if held == nil {
		return nil
	}
	done := ctx.Done()
	if s.deaf.Load() {
		done = nil
	}
	select {
	case <-held:
		return nil
	case <-done:
		return fmt.Errorf("%w: %w", store.ErrUnavailable, ctx.Err())
	}
}

func (s *farStore) Announce(ctx context.Context, key []byte, p wire.Peer, ttl func(store.Size) time.Duration, want store.Want, dst []wire.Peer) ([]wire.Peer, store.Result, error) {
	if err := s.reach(ctx); err != nil {
		return dst, store.Result{}, err
	}
	if p.Endpoint.Port() == 666 {
		panic("a store with a bug")
	}
	return s.Store.Announce(ctx, key, p, ttl, want, dst)
}

func (s *farStore) Subscribe(ctx context.Context, key []byte, p wire.Peer, notify func(), dst []wire.Peer) ([]wire.Peer, store.Size, store.Subscription, error) {
	if err := s.reach(ctx); err != nil {
		return dst, store.Size{}, nil, err
	}
	return s.Store.Subscribe(ctx, key, p, notify, dst)
}

func farServer(t *testing.T) (*farStore, *server.Server) {
	far := &farStore{Store: memory.New()}
	return far, &server.Server{Tracker: &tracker.Tracker{Store: far}, Log: server.LogTo(func(line string) { t.Error(line) })}
}

// testParked runs a test of a TestWorker with a farStore in virtual time.
func testParked(t *testing.T, test func(t *testing.T, far *farStore, s *server.Server, w server.TestWorker)) {
	inBubble(t, func(t *testing.T) {
		far, s := farServer(t)
		test(t, far, s, s.TestWorker(t, listen(t)))
	})
}

// settle lets the worker and the goroutines of parked connections run until they have nothing to do.
func settle(w server.TestWorker) {
	for range 20 {
		w.ServeEvents()
		synctest.Wait()
	}
	w.ServeEvents()
}

func announceAt(port int) string {
	return fmt.Sprintf("GET /ntrk/k?port=%d&numwant=0&format=json HTTP/1.1\r\nHost: t\r\n\r\n", port)
}
