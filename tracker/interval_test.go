package tracker

import (
	"fmt"
	"math"
	"math/rand/v2"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"ntrack/tracker/store"
	"ntrack/tracker/store/memory"
)

func TestInterval(t *testing.T) {
	for _, c := range []struct {
		about         string
		size          store.Size
		rate, maxRate int // how many announces arrive per second, and how many may
		want          int
	}{
		{"a first announce", store.Size{Peers: 1, Total: 1, Age: 0}, 0, 1000, 15},
		{"no peers", store.Size{Peers: 0, Total: 0, Age: 0}, 0, 1000, 15},
		{"few peers, old", store.Size{Peers: 11_250, Total: 11_250, Age: 100 * time.Hour}, 750, 1000, 15},
		{"the first number for which 15 s are too short", store.Size{Peers: 100, Total: 11_251, Age: 0}, 750, 1000, 16},
		{"3/4 of the budget", store.Size{Peers: 100, Total: 900_000, Age: 0}, 0, 1000, 1200},
		{"rounded up", store.Size{Peers: 100, Total: 900_001, Age: 0}, 0, 1000, 1201},
		{"a tenth of the budget, ten times the interval", store.Size{Peers: 100, Total: 90_000, Age: 0}, 0, 100, 1200},
		{"the longest", store.Size{Peers: 100, Total: 1_350_000, Age: 0}, 0, 1000, 1800},
		{"never longer", store.Size{Peers: 100, Total: 10_000_000, Age: 0}, 9000, 1000, 1800},
		{"no budget", store.Size{Peers: 100, Total: 10_000_000, Age: 0}, 9000, 0, 15},
		{"no budget", store.Size{Peers: 100, Total: 10_000_000, Age: 0}, 9000, -1, 15},
		{"more budget than peers", store.Size{Peers: 100, Total: 1000, Age: 0}, 0, math.MaxInt, 15},

		{"young and small", store.Size{Peers: 2, Total: 900_000, Age: 0}, 0, 1000, 15},
		{"still young", store.Size{Peers: 50, Total: 900_000, Age: time.Minute}, 0, 1000, 15},
		{"small and not so young", store.Size{Peers: 2, Total: 900_000, Age: 61 * time.Second}, 0, 1000, 16},
		{"a quarter of its age", store.Size{Peers: 2, Total: 900_000, Age: time.Hour}, 0, 1000, 900},
		{"small and old", store.Size{Peers: 2, Total: 900_000, Age: 5000 * time.Second}, 0, 1000, 1200},
		{"young and not small", store.Size{Peers: 51, Total: 900_000, Age: 0}, 0, 1000, 1200},
		{"half the budget is used", store.Size{Peers: 2, Total: 900_000, Age: 0}, 500, 1000, 15},
		{"more than half", store.Size{Peers: 2, Total: 900_000, Age: 0}, 501, 1000, 16},
		{"nine tenths", store.Size{Peers: 2, Total: 900_000, Age: 0}, 900, 1000, 75},
		{"nine tenths, older", store.Size{Peers: 2, Total: 900_000, Age: 2 * time.Minute}, 900, 1000, 150},
		{"nine tenths, a year old", store.Size{Peers: 2, Total: 900_000, Age: 365 * 24 * time.Hour}, 900, 1000, 1200},
		{"nearly all", store.Size{Peers: 2, Total: 900_000, Age: 0}, 999, 1000, 1200},
		{"all", store.Size{Peers: 2, Total: 900_000, Age: 0}, 1000, 1000, 1200},
		{"more than all", store.Size{Peers: 2, Total: 900_000, Age: 0}, 5000, 1000, 1200},
		{"a budget that cannot be kept", store.Size{Peers: 2, Total: 10_000_000, Age: 0}, 3703, 1000, 15},
		{"a budget that cannot be kept, nearly used up", store.Size{Peers: 2, Total: 10_000_000, Age: 0}, 6666, 1000, 75},
		{"a budget that cannot be kept, used up", store.Size{Peers: 2, Total: 10_000_000, Age: 0}, 7407, 1000, 1800},
	} {
		if got := intervalFor(c.size, c.rate, c.maxRate); got != c.want {
			t.Errorf("%s: %+v at %d/s of %d/s: %d s, want %d s", c.about, c.size, c.rate, c.maxRate, got, c.want)
		}
	}
}

// An interval never becomes shorter if there are more peers or more announces, or if the track is
// older. The announces of all peers need at most three quarters of the budget, unless that would
// take more than the longest interval.
func TestIntervalFollowsLoad(t *testing.T) {
	// Small and large numbers are equally likely.
	random := func() int { return int(rand.Float64() * float64(int(1)<<rand.IntN(25))) }
	for range 200_000 {
		size := store.Size{Peers: random(), Total: 1 + random(), Age: time.Duration(random()) * time.Second}
		rate, maxRate := random(), 1+random()
		interval := intervalFor(size, rate, maxRate)
		if interval < minInterval || interval > maxInterval {
			t.Fatalf("%+v at %d/s of %d/s: %d s", size, rate, maxRate, interval)
		}
		more := size
		more.Peers += random()
		if longer := intervalFor(more, rate, maxRate); longer < interval {
			t.Fatalf("%+v at %d/s of %d/s: %d s, but %d s for %d peers", size, rate, maxRate, interval, longer, more.Peers)
		}
		more = size
		more.Age += time.Duration(random()) * time.Second
		if longer := intervalFor(more, rate, maxRate); longer < interval {
			t.Fatalf("%+v at %d/s of %d/s: %d s, but %d s when %v old", size, rate, maxRate, interval, longer, more.Age)
		}
		busier := rate + random()
		if longer := intervalFor(size, busier, maxRate); longer < interval {
			t.Fatalf("%+v at %d/s of %d/s: %d s, but %d s at %d/s", size, rate, maxRate, interval, longer, busier)
		}
		more = size
		more.Peers, more.Total = smallTrack+1, size.Total+random()
		large := intervalFor(store.Size{Peers: smallTrack + 1, Total: size.Total}, rate, maxRate)
		if longer := intervalFor(more, rate, maxRate); longer < large || interval > large {
			t.Fatalf("%+v at %d/s of %d/s: %d s, and %d s for a large track, but %d s among %d peers", size, rate, maxRate, interval, large, longer, more.Total)
		}
		if large < maxInterval && float64(size.Total)/float64(large) > 0.75*float64(maxRate) {
			t.Fatalf("%d peers come every %d s, that is more than 3/4 of %d/s", size.Total, large, maxRate)
		}
	}
}

func TestSpread(t *testing.T) {
	for _, c := range []struct{ interval, least int }{{15, 15}, {16, 15}, {17, 16}, {20, 18}, {100, 90}, {1800, 1620}} {
		drawn := map[int]int{}
		const rounds = 20_000
		for range rounds {
			drawn[spread(c.interval)]++
		}
		for s := range drawn {
			if s < c.least || s > c.interval {
				t.Errorf("%d s of an interval of %d s", s, c.interval)
			}
		}
		if n := c.interval - c.least + 1; len(drawn) != n || drawn[c.least] < rounds/n/4 {
			t.Errorf("interval of %d s: %v, want every number from %d s", c.interval, drawn, c.least)
		}
	}
}

// arrive does what a Tracker does for each announce.
func (m *meter) arrive() {
	m.rateAt(m.now())
	m.count()
}

// The rate is the number of announces in the last whole second, whenever it is read.
func TestMeter(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := meter{start: time.Now()}
		expect := func(what string, want int) {
			t.Helper()
			if got := m.rateAt(m.now()); got != want {
				t.Errorf("%s: %d/s, want %d/s", what, got, want)
			}
		}
		expect("nothing yet", 0)
		time.Sleep(250 * time.Millisecond)
		for _, rate := range []int{1000, 5000, 100, 16, 15, 2, 1} {
			for second := range 4 {
				for range rate {
					var wg sync.WaitGroup
					wg.Go(func() { m.arrive() })
					wg.Wait()
				}
				time.Sleep(time.Second)
				if second > 0 {
					expect(fmt.Sprint("second ", second), rate)
				}
			}
			expect("read again", rate)
			time.Sleep(time.Second)
			expect("a second of silence", 0)
		}
		for range 5000 {
			m.arrive()
		}
		time.Sleep(2 * time.Second)
		expect("two seconds after a flood", 0)
		for range 5000 {
			m.arrive()
		}
		time.Sleep(5 * time.Minute)
		expect("minutes after a flood", 0)
		m.arrive()
		time.Sleep(time.Second)
		expect("one announce after that", 1)

		var wg sync.WaitGroup
		for range 8 {
			wg.Go(func() {
				for range 100 {
					m.arrive()
				}
			})
		}
		wg.Wait()
		time.Sleep(time.Second)
		expect("many goroutines", 800)
	})
}

// A flood of announces makes the intervals of new tracks longer only while it lasts. Refused
// announces and looks do not count.
func TestIntervalAfterFlood(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := memory.New()
		store.Limits.MaxPerAddr = 5000
		tr := &Tracker{Store: store, MaxRate: 10}
		ask := func(port int, key string) (Response, string) {
			call := Call{Method: "GET", Target: fmt.Appendf(nil, "/ntrk/%s?format=json&numwant=0&port=%d", key, port), Remote: netip.MustParseAddrPort("192.0.2.1:1")}
			if key != "crowd" {
				call.Remote = netip.MustParseAddrPort("192.0.2.2:1") // the crowd has all that its address may have
			}
			resp, body := tr.Answer(t.Context(), &call, nil)
			return resp, string(body)
		}
		expect := func(what, key string, young bool) {
			t.Helper()
			resp, body := ask(1, key)
			if got := strings.Contains(body, `"interval":15,"ttl":38,`) && resp.TTL == 38*time.Second; got != young {
				t.Errorf("%s: the reply for a new key is %s", what, body)
			}
		}
		for i := range 5000 {
			ask(1+i, "crowd")
		}
		time.Sleep(time.Second)
		expect("during the flood", "a", false)
		time.Sleep(time.Second)
		expect("right after", "b", true)
		for i := range 5000 {
			ask(1+i, "crowd")
		}
		time.Sleep(5 * time.Minute)
		expect("long after", "c", true)
		for i := range 5000 {
			if resp, _ := ask(10_000+i, "crowd"); resp.Status != 503 {
				t.Fatalf("not refused: %+v", resp)
			}
		}
		time.Sleep(time.Second)
		expect("while others are refused", "d", true)
		for range 5000 {
			ask(0, "crowd")
		}
		time.Sleep(time.Second)
		expect("while others look", "e", true)
	})
}
