package valkey_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"ntrack/tracker/store"
	"ntrack/tracker/store/valkey"
	"ntrack/tracker/store/valkey/valkeytest"
)

// Few peers of few tracks do what they like at three trackers, without a pause, and the same peer often at
// several of them at once. Whenever all calls have returned, all trackers soon agree, and each peer is listed
// or not, and each stream is open or not, as the order of the calls demands.
func TestFaultOrder(t *testing.T) {
	t.Parallel()
	for name, options := range map[string]valkeytest.Options{
		"Redis":   {},
		"Cluster": {Program: valkeytest.Valkey, Masters: 3},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			engine := valkeytest.Start(t, options)
			var stores []*valkey.Store
			for range 3 {
				stores = append(stores, open(t, valkey.Config{URL: engine.URL(), Lease: 3 * time.Second}))
			}
			seed := rand.Uint64()
			t.Logf("seed %d", seed)
			end := time.Now().Add(5 * time.Second)
			var playing sync.WaitGroup
			for i := range 6 {
				playing.Go(func() {
					s := &scene{t: t, key: fmt.Sprint("track ", i), stores: stores, began: time.Now()}
					if err := s.play(rand.New(rand.NewPCG(seed, uint64(i))), end); err != nil {
						t.Errorf("%s: %v\n%s", s.key, err, s)
					}
				})
			}
			playing.Wait()
			eventually(t, repaired, func() error {
				for i, s := range stores {
					if st := s.Stats(); st.Held != 0 || st.Watched != 0 {
						return fmt.Errorf("after all is over, tracker %d holds %d peers and watches %d tracks", i, st.Held, st.Watched)
					}
				}
				return nil
			})
		})
	}
}

// scenePeers is how many peers a scene has.
const scenePeers = 3

// A scene is a track, and what its peers have done.
type scene struct {
	t       *testing.T
	key     string
	stores  []*valkey.Store
	ledger  ledger // nothing is certain
	lookers []*watcher
	began   time.Time

	mu      sync.Mutex
	acts    []*act
	streams []*act // those that are not closed
}

// An act is a call of a peer at a tracker.
type act struct {
	what       string
	at, peer   int
	from, to   time.Time
	stream     *watcher // that it opens
	mayBeEnded bool     // the stream joined an older one of the same peer, which a late message may end
}

func (s *scene) String() string {
	var lines []string
	for _, a := range s.acts[max(0, len(s.acts)-40):] {
		line := fmt.Sprintf("%v to %v: %s of peer %d at tracker %d", a.from.Sub(s.began), a.to.Sub(s.began), a.what, a.peer, a.at)
		if a.stream != nil {
			line += fmt.Sprintf(" %p", a.stream)
		}
		lines = append(lines, line)
	}
	return strings.Join(lines, "\n")
}

// play acts and checks until the end, and then ends all streams.
func (s *scene) play(r *rand.Rand, end time.Time) (err error) {
	s.lookers = make([]*watcher, 2)
	defer func() {
		for _, a := range s.streams {
			a.stream.close()
		}
		for _, w := range s.lookers {
			if w != nil {
				w.close()
			}
		}
	}()
	if err := s.look(); err != nil {
		return err
	}
	for time.Now().Before(end) {
		var acting sync.WaitGroup
		errs := make(chan error, 3)
		for range 1 + r.IntN(cap(errs)) {
			own := rand.New(rand.NewPCG(r.Uint64(), 0))
			acting.Go(func() {
				for range 1 + own.IntN(12) {
					if err := s.act(own); err != nil {
						errs <- err
						return
					}
				}
			})
		}
		acting.Wait()
		select {
		case err := <-errs:
			if errors.Is(err, store.ErrUnavailable) { // a busy machine, and the call may have had its effect
				s.t.Log(err)
				return nil
			}
			return err
		default:
		}
		for quiet := time.Now(); ; time.Sleep(10 * time.Millisecond) {
			if err = errors.Join(s.look(), s.check()); err == nil {
				break
			}
			if time.Since(quiet) > 2*repaired {
				return err
			}
		}
	}
	return nil
}

// look opens streams that only look, again after Remove has ended them.
func (s *scene) look() (err error) {
	for i, w := range s.lookers {
		if w != nil {
			if _, live := w.view(); live {
				continue
			}
			w.close()
		}
		if s.lookers[i], err = subscribe(s.t, &s.ledger, s.stores[i], s.key, netip.MustParseAddrPort("192.0.2.9:0")); err != nil {
			return err
		}
	}
	return nil
}

// act is one call.
func (s *scene) act(r *rand.Rand) (err error) {
	a := &act{at: r.IntN(len(s.stores)), peer: r.IntN(scenePeers)}
	chance := r.IntN(100)
	s.mu.Lock()
	var closing *watcher
	switch {
	case chance < 20:
		a.what = "announce"
	case chance < 50:
		a.what = "stream"
		same := func(o *act) bool { return o.at == a.at && o.peer == a.peer }
		a.mayBeEnded = slices.ContainsFunc(s.streams, same) ||
			slices.ContainsFunc(s.acts, func(o *act) bool { return same(o) && strings.HasPrefix(o.what, "end") && o.to.IsZero() })
		s.streams = append(s.streams, a)
	case chance < 82:
		open := slices.DeleteFunc(slices.Clone(s.streams), func(o *act) bool { return o.to.IsZero() })
		if len(open) == 0 {
			s.mu.Unlock()
			return nil
		}
		o := open[r.IntN(len(open))]
		s.streams = slices.DeleteFunc(s.streams, func(other *act) bool { return other == o })
		a.what, a.at, a.peer, closing = fmt.Sprintf("end %p", o.stream), o.at, o.peer, o.stream
	case chance < 97:
		a.what = "leave"
	default:
		a.what = "remove"
	}
	a.from = time.Now()
	s.acts = append(s.acts, a)
	s.mu.Unlock()
	tracker, self := s.stores[a.at], peer(a.peer)
	var stream *watcher
	switch {
	case closing != nil:
		closing.close()
	case a.what == "announce":
		_, err = announce(tracker, s.key, self, longTTL)
	case a.what == "stream":
		stream, err = subscribe(s.t, &s.ledger, tracker, s.key, self)
	case a.what == "leave":
		err = leave(tracker, s.key, self)
	default:
		err = tracker.Remove(context.Background(), []byte(s.key))
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	a.to, a.stream = time.Now(), stream
	if err != nil {
		err = fmt.Errorf("%s of peer %d: %w", a.what, a.peer, err)
		s.streams = slices.DeleteFunc(s.streams, func(o *act) bool { return o == a })
	}
	return err
}

// check returns an error if the trackers do not agree, or a peer or a stream is not as it should be.
func (s *scene) check() error {
	for i, tracker := range s.stores {
		has, err := look(tracker, s.key, netip.AddrPort{})
		if err != nil {
			return err
		}
		for n := range scenePeers {
			if err := s.checkPeer(n, slices.Contains(has, peer(n))); err != nil {
				return fmt.Errorf("at tracker %d %w", i, err)
			}
		}
		watchers := slices.Clone(s.lookers)
		for _, a := range s.streams {
			watchers = append(watchers, a.stream)
		}
		for _, w := range watchers {
			others := slices.DeleteFunc(slices.Clone(has), func(e netip.AddrPort) bool { return e == w.self })
			if sees, live := w.view(); live && !slices.Equal(sees, others) {
				return fmt.Errorf("%p of %v sees %s", w, w.self, difference(sees, others))
			}
		}
	}
	return nil
}

// checkPeer compares what became of a peer with what it did.
func (s *scene) checkPeer(n int, isListed bool) error {
	var from, to time.Time // the latest beginning and end of a Leave or Remove
	for _, a := range s.acts {
		if a.what == "remove" || a.what == "leave" && a.peer == n {
			if a.from.After(from) {
				from = a.from
			}
			if a.to.After(to) {
				to = a.to
			}
		}
	}
	streams, mayBeListed, mustBeListed := false, false, false
	for _, a := range s.streams {
		if a.peer != n {
			continue
		}
		_, live := a.stream.view()
		streams = streams || live
		if live && a.to.Before(from) {
			return fmt.Errorf("the stream %p of peer %d goes on after its leave", a.stream, n)
		}
		if !live && a.from.After(to) && !a.mayBeEnded {
			return fmt.Errorf("the stream %p of peer %d has ended", a.stream, n)
		}
	}
	for _, a := range s.acts {
		if a.what == "announce" && a.peer == n {
			mayBeListed = mayBeListed || a.to.After(from)
			mustBeListed = mustBeListed || a.from.After(to)
		}
	}
	if isListed && !streams && !mayBeListed {
		return fmt.Errorf("peer %d is listed", n)
	}
	if !isListed && (streams || mustBeListed) {
		return fmt.Errorf("peer %d is not listed (it has a stream: %v)", n, streams)
	}
	return nil
}
