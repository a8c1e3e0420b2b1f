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
// restarted, and each peer announces again when it is due. Then it goes on until the load is
// steady. docs/PROTOCOL.md section 7 has the table that it prints:
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
		{peers: 10_000, most: 100, steady: 87.5, interval: 134, young: 120}, // the model behaves like the real tracker
		{peers: 10_000_000, each: 40, most: 10_000, steady: 8770, interval: 1334, young: 400},
		// The longest interval, 30 minutes, is too short for this many peers.
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
	peers, most int
	// each is how many peers, in as many equal tracks, a simulated peer stands for; 0 is one.
	each int
	// real announces to a Tracker. Otherwise the test calls the functions that a Tracker calls.
	real bool

	steady          float64 // announces per second at the end
	interval, young int     // seconds: exactly, of a large track; at most, of a new track of 2
}

// A horde has the peers of a load and their state.
type horde struct {
	load
	tracks  []store.Size // Age is when the track began
	of      []int32      // the track of each peer
	lapse   []int32      // the second in which each peer lapses; 0 before it has announced
	due     [][]int32    // the peers due in each second, as a ring
	total   int          // how many peers are listed
	tracker *Tracker
	meter   *meter
	now     int
}

func (c load) run(t *testing.T) {
	c.each = max(c.each, 1)
	h := &horde{load: c, of: make([]int32, c.peers/c.each), lapse: make([]int32, c.peers/c.each), due: make([][]int32, 2*maxInterval)}
	h.tracker = &Tracker{MaxRate: c.most}
	h.meter = &meter{start: time.Now()}
	missing := 0 // peers of the last track that are not in it yet
	for i := range h.of {
		if missing == 0 {
			h.tracks, missing = append(h.tracks, store.Size{}), h.sizeOf(i)
		}
		h.of[i] = int32(len(h.tracks) - 1)
		missing--
	}
	// Before the restart every peer had the interval that follows from c.peers.
	before := min(max(minInterval, 4*c.peers/(3*c.most)), maxInterval)
	for i := range h.of {
		s := rand.IntN(before)
		h.due[s] = append(h.due[s], int32(i))
	}
	settled, end := 6*before+60, 8*before+120
	var restart, later, steady float64 // announces per second, the first two as the maximum of 10 s
	recent, young := 0, 0.0
	var waited, squared float64
	for ; h.now < end; h.now++ {
		slot := h.now % len(h.due)
		todo := h.due[slot]
		for _, p := range todo {
			interval, ttl := h.announce(p)
			if interval < minInterval || interval > maxInterval || ttl < interval*5/2 {
				t.Fatalf("interval of %d s, listed for %d s", interval, ttl)
			}
			h.lapse[p] = int32(h.now + ttl)
			wait := interval - rand.IntN(interval/5+1)
			next := (h.now + wait) % len(h.due)
			h.due[next] = append(h.due[next], p)
			if h.now >= settled {
				waited, squared = waited+float64(wait), squared+float64(wait*wait)
			}
		}
		h.due[slot] = todo[:0]
		if recent += len(todo) * h.each; h.now%10 == 9 {
			if rate := float64(recent) / 10; h.now < settled {
				restart = max(restart, rate)
			} else {
				later = max(later, rate)
				steady += float64(recent)
			}
			recent = 0
		}
		if h.now >= settled {
			young += float64(intervalFor(store.Size{Peers: 2, Total: h.total}, h.rate(), c.most)) / float64(end-settled)
		}
		time.Sleep(time.Second)
	}
	steady /= float64(end - settled)
	crowd := intervalFor(store.Size{Peers: 1000, Total: h.total}, h.rate(), c.most)
	budget := max(float64(c.most), float64(c.peers)/(0.75*maxInterval))

	// Now all peers end at once. This is how long each is still listed.
	var dead, longest float64
	for _, l := range h.lapse {
		rest := float64(int(l) - h.now)
		dead, longest = dead+rest/float64(len(h.lapse)), max(longest, rest)
	}
	t.Logf("| %d | %d | %d | %.0f | %.1f | %.1f | %.1f | %.0f | %.0f | %.0f |", c.peers, c.most, crowd, young, steady,
		later, restart, squared/waited/2, dead, longest)

	if crowd != c.interval || young > float64(c.young)+0.01 {
		t.Errorf("interval of %d s, of %.0f s for new tracks; want %d, at most %d", crowd, young, c.interval, c.young)
	}
	if steady > c.steady*1.02+0.1 || steady < c.steady*0.98-0.1 {
		t.Errorf("%.0f announces per second, want %.0f", steady, c.steady)
	}
	noise := math.Sqrt(budget * float64(c.each) / 10) // of the number that arrives in ten seconds, c.each at a time
	if later > budget*1.1+3*noise {
		t.Errorf("%.0f announces per second at most, of %.0f", later, budget)
	}
	if restart > 2*budget {
		t.Errorf("after the restart %.0f announces per second, of %.0f", restart, budget)
	}
	if h.total != c.peers {
		t.Errorf("%d of %d peers are listed at the end", h.total, c.peers)
	}
	if c.real {
		h.die(t, dead)
	}
}

func (h *horde) sizeOf(peer int) int {
	switch part := float64(peer) / float64(len(h.of)); {
	case part < 0.1:
		return 2
	case part < 0.5:
		return 50
	}
	return 1000
}

func (h *horde) rate() int {
	if h.real {
		return h.tracker.meter.rate()
	}
	return h.meter.rate() * h.each
}

// announce returns the interval in the reply, and how long the peer is listed.
func (h *horde) announce(p int32) (interval, ttl int) {
	tr := &h.tracks[h.of[p]]
	if h.lapse[p] == 0 {
		if tr.Peers == 0 {
			tr.Age = time.Duration(h.now) * time.Second
		}
		tr.Peers++
		h.total += h.each
	} else if int(h.lapse[p]) <= h.now {
		panic("a peer that announced in time has lapsed")
	}
	if h.real {
		return h.ask(p)
	}
	h.meter.arrive()
	mean := intervalFor(store.Size{Peers: tr.Peers, Total: h.total, Age: time.Duration(h.now)*time.Second - tr.Age}, h.rate(), h.most)
	return spread(mean), (mean*5 + 1) / 2
}

func (h *horde) ask(p int32) (interval, ttl int) {
	addr := netip.AddrFrom4([4]byte{11, byte(p >> 16), byte(p >> 8), byte(p)})
	target := fmt.Appendf(nil, "/ntrk/%d?port=6881&numwant=0&format=json", h.of[p])
	call := Call{Method: "GET", Target: target, Remote: netip.AddrPortFrom(addr, 6881)}
	resp, body := h.tracker.Answer(context.Background(), &call, nil)
	_, rest, _ := strings.Cut(string(body), `"interval":`)
	number, _, _ := strings.Cut(rest, ",")
	interval, err := strconv.Atoi(number)
	if err != nil {
		panic(err)
	}
	return interval, int(resp.TTL / time.Second)
}

// die stops all announces. Then it compares how long the tracker lists a peer on average with what
// is expected.
func (h *horde) die(t *testing.T, expected float64) {
	var keys []wire.Key
	for i := range h.tracks {
		keys = append(keys, wire.KeyOf(fmt.Append(nil, i)))
	}
	listed := 0
	for there := h.peers; there > 0; listed += there {
		there = 0
		tracks, err := h.tracker.store.Scrape(t.Context(), keys, netip.MustParseAddr("192.0.2.1"), nil)
		if err != nil {
			t.Fatal(err)
		}
		for _, tr := range tracks {
			there += tr.Count
		}
		time.Sleep(time.Second)
	}
	if got := float64(listed) / float64(h.peers); got < expected-2 || got > expected+2 {
		t.Errorf("peers that ended are listed for %.1f s, want %.1f s", got, expected)
	}
}
