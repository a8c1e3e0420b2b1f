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

// What an interval that follows the load comes to, in virtual time: a tracker is restarted, and
// its peers find it again, each when it is due; then it goes on for long enough to settle. The
// table is the one of docs/PROTOCOL.md section 7:
//
//	go test ./tracker -run TestLoad -v
//
// Peers come up to a fifth before they are due, at random, as clients should. A tenth of them are
// in tracks of 2, two fifths in tracks of 50 and half in tracks of 1000.
func TestLoad(t *testing.T) {
	t.Log("| peers | R | interval, s | new, s | announces/s | at most | restart | knows, s | listed, s | at most, s |")
	t.Log("|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|")
	for _, c := range []load{
		{peers: 10, most: 1000, real: true, steady: 0.7, interval: 15, young: 15},
		{peers: 10_000, most: 1000, real: true, steady: 740, interval: 15, young: 15},
		{peers: 10_000, most: 100, real: true, steady: 87.5, interval: 134, young: 120},
		{peers: 10_000, most: 100, steady: 87.5, interval: 134, young: 120}, // the model is true to life
		{peers: 10_000_000, each: 40, most: 10_000, steady: 8770, interval: 1334, young: 400},
		// This many cannot be kept within such a budget: 30 minutes is the longest.
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

// A load is so many peers on a tracker, and what is to come of it.
type load struct {
	peers, most int
	// each simulated peer stands for so many, in as many tracks alike; 0 is one.
	each int
	// real asks a Tracker, and else the functions that it asks itself.
	real bool

	steady          float64 // announces per second in the end, at most
	interval, young int     // seconds: of a large track, exactly, and of a new one of 2, at most
}

// A horde is the peers of a load and what they live through.
type horde struct {
	load
	tracks  []store.Size // Age is when the track began
	of      []int32      // the track of each peer
	lapse   []int32      // second when it lapses; 0 for one that has not come yet
	due     [][]int32    // a calendar: the peers due in each second to come, around
	total   int          // of peers listed
	tracker *Tracker
	meter   *meter
	now     int
}

func (c load) run(t *testing.T) {
	c.each = max(c.each, 1)
	h := &horde{load: c, of: make([]int32, c.peers/c.each), lapse: make([]int32, c.peers/c.each), due: make([][]int32, 2*maxPace)}
	h.tracker = &Tracker{MaxRate: c.most}
	h.meter = &meter{start: time.Now()}
	left := 0 // of the last track, to come
	for i := range h.of {
		if left == 0 {
			h.tracks, left = append(h.tracks, store.Size{}), h.sizeOf(i)
		}
		h.of[i] = int32(len(h.tracks) - 1)
		left--
	}
	// Before the restart everybody had the interval that c.peers have in the long run.
	before := min(max(minPace, 4*c.peers/(3*c.most)), maxPace)
	for i := range h.of {
		s := rand.IntN(before)
		h.due[s] = append(h.due[s], int32(i))
	}
	settled, end := 6*before+60, 8*before+120
	var restart, later, steady float64 // announces per second: the first two over 10 s at most
	recent, young := 0, 0.0
	var waited, squared float64
	for ; h.now < end; h.now++ {
		slot := h.now % len(h.due)
		todo := h.due[slot]
		for _, p := range todo {
			told, ttl := h.announce(p)
			if told < minPace || told > maxPace || ttl < told*5/2 {
				t.Fatalf("told %d s and listed for %d s", told, ttl)
			}
			h.lapse[p] = int32(h.now + ttl)
			wait := told - rand.IntN(told/5+1)
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
			young += float64(pace(store.Size{Peers: 2, Total: h.total}, h.rate(), c.most)) / float64(end-settled)
		}
		time.Sleep(time.Second)
	}
	steady /= float64(end - settled)
	crowd := pace(store.Size{Peers: 1000, Total: h.total}, h.rate(), c.most)
	budget := max(float64(c.most), float64(c.peers)/(0.75*maxPace))

	// Now all die at once: how long is each still listed?
	var dead, longest float64
	for _, l := range h.lapse {
		left := float64(int(l) - h.now)
		dead, longest = dead+left/float64(len(h.lapse)), max(longest, left)
	}
	t.Logf("| %d | %d | %d | %.0f | %.1f | %.1f | %.1f | %.0f | %.0f | %.0f |", c.peers, c.most, crowd, young, steady,
		later, restart, squared/waited/2, dead, longest)

	if crowd != c.interval || young > float64(c.young)+0.01 {
		t.Errorf("interval of %d s, of %.0f s for new tracks; want %d, at most %d", crowd, young, c.interval, c.young)
	}
	if steady > c.steady*1.02+0.1 || steady < c.steady*0.98-0.1 {
		t.Errorf("%.0f announces per second, want %.0f", steady, c.steady)
	}
	noise := math.Sqrt(budget * float64(c.each) / 10) // of what comes in ten seconds, that many at a time
	if later > budget*1.1+3*noise {
		t.Errorf("%.0f announces per second at the worst, of %.0f", later, budget)
	}
	if restart > 2*budget {
		t.Errorf("after the restart %.0f announces per second, of %.0f", restart, budget)
	}
	if h.total != c.peers {
		t.Errorf("%d of %d peers are listed in the end", h.total, c.peers)
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

// announce returns what a peer is told, and how long it is listed.
func (h *horde) announce(p int32) (told, ttl int) {
	tr := &h.tracks[h.of[p]]
	if h.lapse[p] == 0 {
		if tr.Peers == 0 {
			tr.Age = time.Duration(h.now) * time.Second
		}
		tr.Peers++
		h.total += h.each
	} else if int(h.lapse[p]) <= h.now {
		panic("a peer that came in time has lapsed")
	}
	if h.real {
		return h.ask(p)
	}
	h.meter.arrive()
	interval := pace(store.Size{Peers: tr.Peers, Total: h.total, Age: time.Duration(h.now)*time.Second - tr.Age}, h.rate(), h.most)
	return spread(interval), (interval*5 + 1) / 2
}

func (h *horde) ask(p int32) (told, ttl int) {
	addr := netip.AddrFrom4([4]byte{11, byte(p >> 16), byte(p >> 8), byte(p)})
	target := fmt.Appendf(nil, "/ntrk/%d?port=6881&numwant=0&format=json", h.of[p])
	call := Call{Method: "GET", Target: target, Remote: netip.AddrPortFrom(addr, 6881)}
	resp, body := h.tracker.Answer(context.Background(), &call, nil)
	_, rest, _ := strings.Cut(string(body), `"interval":`)
	number, _, _ := strings.Cut(rest, ",")
	told, err := strconv.Atoi(number)
	if err != nil {
		panic(err)
	}
	return told, int(resp.TTL / time.Second)
}

// die has nobody announce any more, and holds what the tracker lists against what is expected of
// each peer on the average.
func (h *horde) die(t *testing.T, expected float64) {
	var keys []wire.Key
	for i := range h.tracks {
		keys = append(keys, wire.KeyOf(fmt.Append(nil, i)))
	}
	listed := 0
	for left := h.peers; left > 0; listed += left {
		left = 0
		tracks, err := h.tracker.store.Scrape(t.Context(), keys, netip.MustParseAddr("192.0.2.1"), nil)
		if err != nil {
			t.Fatal(err)
		}
		for _, tr := range tracks {
			left += tr.Count
		}
		time.Sleep(time.Second)
	}
	if got := float64(listed) / float64(h.peers); got < expected-2 || got > expected+2 {
		t.Errorf("the dead are listed for %.1f s, want %.1f s", got, expected)
	}
}
