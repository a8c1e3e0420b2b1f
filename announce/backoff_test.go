package announce

import (
	"fmt"
	"math"
	"net/http"
	"testing"
	"testing/synctest"
	"time"

	"ntrack/announce/wire"
)

// The waits between failures grow, and are random, so that clients do not ask at the same moment.
func TestBackoff(t *testing.T) {
	const draws = 200
	for _, c := range []struct {
		failures    int
		interval    time.Duration
		retry       time.Duration
		least, most time.Duration
	}{
		{1, time.Hour, 0, time.Second / 2, time.Second},
		{2, time.Hour, 0, time.Second, 2 * time.Second},
		{5, time.Hour, 0, 8 * time.Second, 16 * time.Second},
		{5, maxBackoff, 0, maxBackoff / 2, maxBackoff},
		{100, time.Hour, 0, time.Hour / 2, time.Hour},
		{1000, 1 << 60, 0, 2048 * time.Second, 4096 * time.Second},
		{1, time.Hour, 30 * time.Second, 30 * time.Second, 36 * time.Second},
		{6, time.Hour, 30 * time.Second, 30 * time.Second, 36 * time.Second}, // without Retry it would be 16 s to 32 s
		{1, time.Second, 59 * time.Minute, 59 * time.Minute, time.Hour},
	} {
		t.Run(fmt.Sprint(c), func(t *testing.T) {
			first, last := c.most, c.least
			for range draws {
				d := backoff(c.failures, c.interval, &RefusalError{Retry: c.retry})
				first, last = min(first, d), max(last, d)
			}
			if first < c.least || last > c.most || last-first < (c.most-c.least)/2 {
				t.Errorf("%v to %v, want %v to %v", first, last, c.least, c.most)
			}
		})
	}
	if d := backoff(1, time.Hour, &RefusalError{Retry: 24 * time.Hour}); d != wire.MaxInterval {
		t.Errorf("waits %v after a refusal that asks for a day, want MaxInterval", d)
	}
}

// After a tracker has ended its streams, its clients spread their next requests. They spread over a
// longer time if the track is larger.
func TestAfterStream(t *testing.T) {
	const draws = 500
	for _, c := range []struct {
		retry       time.Duration
		clean       bool
		peers       int
		least, most time.Duration
	}{
		{-1, false, 0, time.Second / 2, time.Second},
		{-1, false, 100_000, time.Second / 2, time.Second},
		{20 * time.Second, false, 100_000, 10 * time.Second, 20 * time.Second},
		{0, false, 0, 0, 0},
		{0, true, 9_999, 0, 20 * time.Second},
		{-1, true, 9_999, time.Second / 2, 20 * time.Second},
		{0, true, 1_000_000, 0, time.Minute},
		{0, true, math.MaxInt, 0, time.Minute}, // the tracker has reported joins without end
		{wire.MaxRetry, true, 9_999, wire.MaxRetry / 2, wire.MaxRetry},
	} {
		first, last := time.Hour, -time.Hour
		for range draws {
			d := afterStream(c.retry, c.clean, c.peers)
			first, last = min(first, d), max(last, d)
		}
		if first < c.least || last > c.most || last-first < (c.most-c.least)*9/10 {
			t.Errorf("retry %v, clean %v, %d peers: %v to %v, want %v to %v", c.retry, c.clean, c.peers, first, last, c.least, c.most)
		}
	}
}

// A date in Retry-After is rounded up to the next second, so that a client does not ask too early.
func TestRetryAfterRounds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		time.Sleep(300 * time.Millisecond)
		h := http.Header{"Retry-After": {time.Now().Add(30 * time.Second).UTC().Format(http.TimeFormat)}}
		if d := retryAfter(h); d != 30*time.Second {
			t.Errorf("got %v, want 30 s", d)
		}
	})
}
