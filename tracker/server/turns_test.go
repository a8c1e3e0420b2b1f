package server_test

import (
	"context"
	"fmt"
	"io"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"ntrack/announce/wire"
	"ntrack/tracker"
	"ntrack/tracker/server"
	"ntrack/tracker/store"
	"ntrack/tracker/store/memory"
)

// A countingStore counts how many goroutines are in it.
type countingStore struct {
	*memory.Store
	now, most atomic.Int32
}

func (s *countingStore) Announce(ctx context.Context, key []byte, p wire.Peer, ttl func(store.Size) time.Duration, want store.Want, dst []wire.Peer) ([]wire.Peer, store.Result, error) {
	defer s.now.Add(-1)
	for n := s.now.Add(1); ; {
		most := s.most.Load()
		if n <= most || s.most.CompareAndSwap(most, n) {
			break
		}
	}
	for range 10 {
		runtime.Gosched()
	}
	if p.Endpoint.Port() == 666 {
		panic("a store with a bug")
	}
	return s.Store.Announce(ctx, key, p, ttl, want, dst)
}

// However many connections have a goroutine, as many as there are CPUs are served at a time. The
// others wait without being ready to run, so the workers do not wait for all of them. A connection
// that waits for its client, or that ends by a panic, has no turn.
func TestTurns(t *testing.T) {
	const clients, announces = 100, 20
	st := &countingStore{Store: memory.New()}
	s := &server.Server{Tracker: &tracker.Tracker{Store: st}, Log: server.LogTo(func(line string) {
		if !strings.Contains(line, "panic") && !strings.Contains(line, "private") {
			t.Error(line)
		}
	})}
	addr := serveGoroutines(t, s)
	for range 2 * runtime.GOMAXPROCS(0) {
		c := dial(t, addr)
		_, _ = io.WriteString(c, "GET /ntrk/k?port=666 HTTP/1.1\r\nHost: t\r\n\r\n")
		_, _ = io.Copy(io.Discard, c)
		if _, err := io.WriteString(dial(t, addr), "GET /ntrk/k?po"); err != nil {
			t.Fatal(err)
		}
	}
	var crowd sync.WaitGroup
	for i := range clients {
		v := visit(t, addr)
		crowd.Go(func() {
			for n := range announces {
				get(t, v, v.r, fmt.Sprintf("/ntrk/k?port=%d", 1000+announces*i+n))
			}
		})
	}
	crowd.Wait()
	if n := int(st.most.Load()); n > runtime.GOMAXPROCS(0) {
		t.Errorf("%d connections were served at the same time", n)
	}
}
