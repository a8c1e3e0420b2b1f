package server_test

import (
	"context"
	"io"
	"net/netip"
	"testing"
	"time"

	"ntrack/announce/wire"
	"ntrack/tracker"
	"ntrack/tracker/server"
	"ntrack/tracker/store"
	"ntrack/tracker/store/memory"
)

// A stuckStore does not return from a call while the channel for it is open.
type stuckStore struct {
	*memory.Store
	announce, look chan struct{}
	entered        chan struct{} // receives when an announce begins
}

func (s *stuckStore) Announce(ctx context.Context, key []byte, p wire.Peer, ttl func(store.Size) time.Duration, want store.Want, dst []wire.Peer) ([]wire.Peer, store.Result, error) {
	s.entered <- struct{}{}
	<-s.announce
	return s.Store.Announce(ctx, key, p, ttl, want, dst)
}

func (s *stuckStore) Look(ctx context.Context, key []byte, asker netip.Addr, want store.Want, dst []wire.Peer) ([]wire.Peer, store.Result, error) {
	<-s.look
	return s.Store.Look(ctx, key, asker, want, dst)
}

// Check finds a store that does not answer, and a worker that is stuck in a call.
func TestCheck(t *testing.T) {
	free, stuck := make(chan struct{}), make(chan struct{})
	close(free)
	defer close(stuck)
	for _, c := range []struct {
		about          string
		announce, look chan struct{}
		want           string // "" if the check succeeds
	}{
		{"all is well", free, free, ""},
		{"the store is stuck", free, stuck, "the tracker does not answer"},
		{"a call is stuck", stuck, free, "a worker does not serve its connections"},
	} {
		entered := make(chan struct{}, 1)
		s := &server.Server{Tracker: &tracker.Tracker{Store: &stuckStore{memory.New(), c.announce, c.look, entered}}}
		conn := dial(t, serve(t, s))
		patience := time.Minute
		if c.want != "" {
			patience = 100 * time.Millisecond
		}
		if _, err := io.WriteString(conn, "GET /ntrk/k?port=4000 HTTP/1.1\r\nHost: t\r\n\r\n"); err != nil {
			t.Fatal(err)
		}
		await(t, "an announce", entered)
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		got := ""
		if err := s.Check(ctx); err != nil {
			got = err.Error()
		}
		cancel()
		if got != c.want {
			t.Errorf("%s: %q, want %q", c.about, got, c.want)
		}
	}
}
