package valkey

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strconv"
	"testing"
	"time"

	"ntrack/announce/wire"
	"ntrack/tracker/store"
	"ntrack/tracker/store/valkey/valkeytest"
)

// Sentinels let everyone in, or want the user of the server.
func TestSentinelsAndPasswords(t *testing.T) {
	t.Parallel()
	engine := valkeytest.Start(t, valkeytest.Options{Sentinels: 1, User: "tracker", Password: "secret"})
	open(t, Config{URL: engine.URL()})
	if _, err := engine.Sentinels[0].Do("ACL", "SETUSER", "tracker", "on", ">secret", "+@all", "~*", "&*"); err != nil {
		t.Fatal(err)
	}
	open(t, Config{URL: engine.URL()})
	if _, err := engine.Sentinels[0].Do("ACL", "SETUSER", "default", "off"); err != nil {
		t.Fatal(err)
	}
	open(t, Config{URL: engine.URL()})
}

// A full database refuses new peers, and nothing of a new track remains. It still renews peers that are
// listed, answers and removes.
func TestFullDatabase(t *testing.T) {
	t.Parallel()
	engine := valkeytest.Start(t, valkeytest.Options{Config: []string{"maxmemory-policy noeviction"}})
	s := open(t, Config{URL: engine.URL()})
	peer := wire.Peer{Endpoint: netip.MustParseAddrPort("192.0.2.1:1")}
	announce := func(key string) error {
		_, _, err := s.Announce(t.Context(), []byte(key), peer, bySize, store.Want{}, nil)
		return err
	}
	if err := announce("k"); err != nil {
		t.Fatal(err)
	}
	engine.Must("CONFIG", "SET", "maxmemory", "100kb")
	var full *store.FullError
	if err := announce("l"); !errors.As(err, &full) || full.What != store.FullMemory || full.Stream {
		t.Errorf("a new track: %v", err)
	}
	set := s.keysOf([]byte("k")).sets[6]
	_, r, err := s.Announce(t.Context(), []byte("k"), peer, fixed(time.Hour), store.Want{Peers: 10}, nil)
	if err != nil || r.Count != 1 || r.Size.Peers != 1 {
		t.Errorf("a renewal: %+v, %v", r, err)
	}
	if ttl := engine.Must("TTL", set).(int64); ttl < 3590 {
		t.Errorf("after a renewal its set expires in %d s", ttl)
	}
	if score, err := strconv.ParseFloat(fmt.Sprint(engine.Must("ZSCORE", set, memberOf(peer.Endpoint))), 64); err != nil || score < float64(s.clock.second()+3590) {
		t.Errorf("after a renewal its score is %v, %v", score, err)
	}
	if tracks, err := s.Scrape(t.Context(), nil, peer.Endpoint.Addr(), nil); err != nil || len(tracks) != 1 || tracks[0].Count != 1 {
		t.Errorf("all tracks: %v, %v", tracks, err)
	}
	if err := s.Leave(t.Context(), []byte("k"), peer.Endpoint); err != nil {
		t.Error(err)
	}
	if st := s.Stats(); st.Full < 2 || st.Unavailable > 0 || st.SinceAnswer > 5*time.Second {
		t.Errorf("%+v", st)
	}
	engine.Must("CONFIG", "SET", "maxmemory", "0")
	if err := announce("k"); err != nil {
		t.Error(err)
	}
}

// While the database is suspended or away, each call returns after two seconds at the latest, and when
// its context ends. Afterwards calls succeed.
func TestAway(t *testing.T) {
	t.Parallel()
	engine := valkeytest.Start(t, valkeytest.Options{})
	s := open(t, Config{URL: engine.URL()})
	key, peer := []byte("k"), wire.Peer{Endpoint: netip.MustParseAddrPort("192.0.2.1:1")}
	calls := map[string]func(context.Context) error{
		"announce": func(ctx context.Context) error {
			_, _, err := s.Announce(ctx, key, peer, bySize, store.Want{Peers: 10}, nil)
			return err
		},
		"look": func(ctx context.Context) error {
			_, _, err := s.Look(ctx, key, peer.Endpoint.Addr(), store.Want{Peers: 10}, nil)
			return err
		},
		"leave":  func(ctx context.Context) error { return s.Leave(ctx, key, peer.Endpoint) },
		"remove": func(ctx context.Context) error { return s.Remove(ctx, key) },
		"scrape": func(ctx context.Context) error {
			_, err := s.Scrape(ctx, []wire.Key{wire.KeyOf(key)}, peer.Endpoint.Addr(), nil)
			return err
		},
		"index": func(ctx context.Context) error {
			_, err := s.Scrape(ctx, nil, peer.Endpoint.Addr(), nil)
			return err
		},
	}
	expectAll := func(what string, ctx context.Context, want error, within time.Duration) {
		t.Helper()
		results := make(chan error)
		began := time.Now()
		for name, call := range calls {
			go func() {
				switch err := call(ctx); {
				case !errors.Is(err, want):
					results <- fmt.Errorf("%s: %v", name, err)
				case time.Since(began) > within:
					results <- fmt.Errorf("%s: took %v", name, time.Since(began))
				default:
					results <- nil
				}
			}()
		}
		for range calls {
			if err := <-results; err != nil {
				t.Errorf("%s: %v", what, err)
			}
		}
	}
	const slack = 3 * time.Second // of a busy machine
	expectAll("at first", t.Context(), nil, time.Minute)
	engine.Suspend()
	expectAll("suspended", t.Context(), store.ErrUnavailable, callTimeout+slack)
	short, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	expectAll("suspended, with a short deadline", short, context.DeadlineExceeded, 100*time.Millisecond+slack)
	engine.Kill() // while it is suspended, so that it does not answer once more
	expectAll("killed", t.Context(), store.ErrUnavailable, callTimeout+slack)
	if st := s.Stats(); st.Unavailable < int64(3*len(calls)) || st.InFlight > 2 || st.SinceAnswer < callTimeout {
		t.Errorf("%+v", st)
	}
	engine.Restart(false)
	for began := time.Now(); ; { // the client connects again with some delay
		if err := calls["look"](t.Context()); err == nil {
			break
		} else if time.Since(began) > 10*time.Second {
			t.Fatal(err)
		}
	}
	expectAll("back", t.Context(), nil, time.Minute)
}

// An index asks each master, and no replica.
func TestIndexOfCluster(t *testing.T) {
	t.Parallel()
	s := open(t, Config{URL: valkeytest.Start(t, valkeytest.Options{Masters: 3, Replicas: 1}).URL()})
	peer := wire.Peer{Endpoint: netip.MustParseAddrPort("192.0.2.1:1")}
	for i := range 100 {
		if _, _, err := s.Announce(t.Context(), fmt.Append(nil, "track ", i), peer, bySize, store.Want{}, nil); err != nil {
			t.Fatal(err)
		}
	}
	tracks, err := s.Scrape(t.Context(), nil, peer.Endpoint.Addr(), nil)
	if err != nil || len(tracks) != 100 {
		t.Fatalf("%d tracks, %v", len(tracks), err)
	}
	for _, track := range tracks {
		if track.Count != 1 {
			t.Errorf("%q has %d peers", track.Key.Bytes(), track.Count)
		}
	}
}
