package tracker

import (
	"context"
	"fmt"
	"math"
	"math/rand/v2"
	"net/netip"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"ntrack/announce/wire"
	"ntrack/tracker/store"
)

// This test shows how an interval that follows the load develops, in virtual time. A tracker is
// restarted, and each peer announces again when its interval is over. The test goes on until the
// load is steady. It prints the table that docs/operating.md has:
//
//	go test ./tracker -run TestLoad -v
//
// Peers announce up to a fifth of the interval early, at random, as clients should. A tenth of them
// are in tracks of 2, two fifths in tracks of 50 and half in tracks of 1000.
func TestLoad(t *testing.T) {
	t.Log("| peers | R | interval, s | new, s | announces/s | at most | restart | knows, s | listed, s | at most, s |")
	t.Log("|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|")
	for _, c := range []load{
		{peers: 10, most: 1000, real: true, steady: 0.7, interval: 15, young: 15},
		{peers: 10_000, most: 1000, real: true, steady: 740, interval: 15, young: 15},
		{peers: 10_000, most: 100, real: true, steady: 87.5, interval: 134, young: 120},
		{peers: 10_000, most: 100, steady: 87.5, interval: 134, young: 120}, // the same results without a Tracker
		{peers: 10_000_000, each: 40, most: 10_000, steady: 8770, interval: 1334, young: 400},
		// For that many peers even the longest interval, 30 minutes, is too short.
		{peers: 10_000_000, each: 40, most: 1000, steady: 6420, interval: 1800, young: 600},
	} {
		name := fmt.Sprintf("%d peers at %d a second", c.peers, c.most)
		if c.real {
			name += ", a real tracker"
		}
		t.Run(strings.ReplaceAll(name, " ", "-"), func(t *testing.T) {
			synctest.Test(t, c.run)
		})
	}
}

// A load is a number of peers on a tracker, and what the test expects of it.
type load struct {
	peers, most int // most is how many announces may arrive per second
	// each is how many peers a simulated peer stands for. They are in that many equal tracks. 0 is
	// one.
	each int
	// real says that the peers announce to a Tracker. Otherwise the test calls the functions that
	// a Tracker calls.
	real bool

	steady   float64 // expected announces per second at the end
	interval int     // expected interval of a large track, in seconds
	young    int     // the longest expected interval of a new track of 2 peers, in seconds
}

// A simulation has the peers of a load and their state. Its times are seconds since the beginning.
type simulation struct {
	load
	tracks  []store.Size // Age is not an age, but the time of the first announce
	trackOf []int32      // the track of each peer
	lapse   []int32      // the time when each peer lapses; 0 before it has announced
	due     [][]int32    // the peers that announce at each time; a ring
	total   int          // how many peers are listed
	tracker *Tracker
	meter   *meter
	now     int
}

func (c load) run(t *testing.T) {
	c.each = max(c.each, 1)
	sim := &simulation{load: c, trackOf: make([]int32, c.peers/c.each), lapse: make([]int32, c.peers/c.each), due: make([][]int32, 2*maxInterval)}
	sim.tracker = &Tracker{MaxRate: c.most}
	sim.meter = &meter{start: time.Now()}
	missing := 0 // how many more peers the last track gets
	for i := range sim.trackOf {
		if missing == 0 {
			sim.tracks, missing = append(sim.tracks, store.Size{}), sim.sizeOf(i)
		}
		sim.trackOf[i] = int32(len(sim.tracks) - 1)
		missing--
	}
	// Before the restart every peer had the interval that follows from c.peers.
	before := min(max(minInterval, 4*c.peers/(3*c.most)), maxInterval)
	for i := range sim.trackOf {
		first := rand.IntN(before)
		sim.due[first] = append(sim.due[first], int32(i))
	}
	settled, end := 6*before+60, 8*before+120
	// Announces per second. restart and later are the most in any 10 seconds, steady is the mean.
	var restart, later, steady float64
	recent, young := 0, 0.0     // announces in the current 10 s; mean interval of a new track
	var waited, squares float64 // the sum of all waits, and of their squares
	for ; sim.now < end; sim.now++ {
		slot := sim.now % len(sim.due)
		todo := sim.due[slot]
		for _, p := range todo {
			interval, ttl := sim.announce(p)
			if interval < minInterval || interval > maxInterval || ttl < interval*5/2 {
				t.Fatalf("interval of %d s, listed for %d s", interval, ttl)
			}
			sim.lapse[p] = int32(sim.now + ttl)
			wait := interval - rand.IntN(interval/5+1)
			next := (sim.now + wait) % len(sim.due)
			sim.due[next] = append(sim.due[next], p)
			if sim.now >= settled {
				waited, squares = waited+float64(wait), squares+float64(wait*wait)
			}
		}
		sim.due[slot] = todo[:0]
		if recent += len(todo) * sim.each; sim.now%10 == 9 {
			if rate := float64(recent) / 10; sim.now < settled {
				restart = max(restart, rate)
			} else {
				later = max(later, rate)
				steady += float64(recent)
			}
			recent = 0
		}
		if sim.now >= settled {
			young += float64(intervalFor(store.Size{Peers: 2, Total: sim.total}, sim.rate(), c.most)) / float64(end-settled)
		}
		time.Sleep(time.Second)
	}
	steady /= float64(end - settled)
	large := intervalFor(store.Size{Peers: 1000, Total: sim.total}, sim.rate(), c.most)
	budget := max(float64(c.most), float64(c.peers)/(0.75*maxInterval))

	// Now all peers stop announcing. This is how long each is still listed.
	var listed, longestListed float64
	for _, l := range sim.lapse {
		rest := float64(int(l) - sim.now)
		listed, longestListed = listed+rest/float64(len(sim.lapse)), max(longestListed, rest)
	}
	// squares/waited/2 is the mean time from any moment to the next announce of a peer.
	t.Logf("| %d | %d | %d | %.0f | %.1f | %.1f | %.1f | %.0f | %.0f | %.0f |", c.peers, c.most, large, young, steady,
		later, restart, squares/waited/2, listed, longestListed)

	if large != c.interval || young > float64(c.young)+0.01 {
		t.Errorf("interval of %d s, of %.0f s for new tracks; want %d, at most %d", large, young, c.interval, c.young)
	}
	if steady > c.steady*1.02+0.1 || steady < c.steady*0.98-0.1 {
		t.Errorf("%.0f announces per second, want %.0f", steady, c.steady)
	}
	// In ten seconds budget*10/each groups arrive, each of them at a random time.
	noise := math.Sqrt(budget * float64(c.each) / 10)
	if later > budget*1.1+3*noise {
		t.Errorf("%.0f announces per second at most, of %.0f", later, budget)
	}
	if restart > 2*budget {
		t.Errorf("after the restart %.0f announces per second, of %.0f", restart, budget)
	}
	if sim.total != c.peers {
		t.Errorf("%d of %d peers are listed at the end", sim.total, c.peers)
	}
	if c.real {
		sim.expectListed(t, listed)
	}
}

// sizeOf returns the size of the track of a peer.
func (s *simulation) sizeOf(peer int) int {
	switch part := float64(peer) / float64(len(s.trackOf)); {
	case part < 0.1:
		return 2
	case part < 0.5:
		return 50
	}
	return 1000
}

// rate returns how many announces arrive per second.
func (s *simulation) rate() int {
	if s.real {
		return s.tracker.meter.rateAt(s.tracker.meter.now())
	}
	return s.meter.rateAt(s.meter.now()) * s.each
}

// announce returns the interval in the reply, and how long the peer is listed.
func (s *simulation) announce(p int32) (interval, ttl int) {
	tr := &s.tracks[s.trackOf[p]]
	if s.lapse[p] == 0 {
		if tr.Peers == 0 {
			tr.Age = time.Duration(s.now) * time.Second
		}
		tr.Peers++
		s.total += s.each
	} else if int(s.lapse[p]) <= s.now {
		panic("a peer that announced in time has lapsed")
	}
	if s.real {
		return s.ask(p)
	}
	s.meter.arrive()
	interval = intervalFor(store.Size{Peers: tr.Peers, Total: s.total, Age: time.Duration(s.now)*time.Second - tr.Age}, s.rate(), s.most)
	return spread(interval), (interval*5 + 1) / 2
}

// ask announces to the tracker.
func (s *simulation) ask(p int32) (interval, ttl int) {
	addr := netip.AddrFrom4([4]byte{11, byte(p >> 16), byte(p >> 8), byte(p)})
	target := fmt.Appendf(nil, "/ntrk/%d?port=6881&numwant=0&format=json", s.trackOf[p])
	call := Call{Method: "GET", Target: target, Remote: netip.AddrPortFrom(addr, 6881)}
	resp, body := s.tracker.Answer(context.Background(), &call, nil)
	_, rest, _ := strings.Cut(string(body), `"interval":`)
	number, _, _ := strings.Cut(rest, ",")
	interval, err := strconv.Atoi(number)
	if err != nil {
		panic(err)
	}
	return interval, int(resp.TTL / time.Second)
}

// expectListed checks for how many seconds the tracker still lists a peer on average. Peers no
// longer announce.
func (s *simulation) expectListed(t *testing.T, expected float64) {
	var keys []wire.Key
	for i := range s.tracks {
		keys = append(keys, wire.KeyOf(fmt.Append(nil, i)))
	}
	listed := 0
	for there := s.peers; there > 0; listed += there {
		there = 0
		tracks, err := s.tracker.store.Scrape(t.Context(), keys, netip.MustParseAddr("192.0.2.1"), nil)
		if err != nil {
			t.Fatal(err)
		}
		for _, tr := range tracks {
			there += tr.Count
		}
		time.Sleep(time.Second)
	}
	if got := float64(listed) / float64(s.peers); got < expected-2 || got > expected+2 {
		t.Errorf("peers that are gone are listed for %.1f s, want %.1f s", got, expected)
	}
}
