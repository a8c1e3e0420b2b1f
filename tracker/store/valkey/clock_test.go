package valkey

import (
	"testing"
	"testing/synctest"
	"time"
)

// A jump of the database's clock is followed in small steps, and a suspended tracker catches up at once.
func TestClockFollowsJumpsSlowly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var c clock
		c.start = time.Now()
		ahead := -3 * time.Hour // of the database, before this machine
		read := func() time.Duration {
			now := time.Now()
			return c.adjust(now.Add(ahead), now)
		}
		off := func() time.Duration { return time.Until(time.Unix(0, c.nano())) - ahead }
		if remaining := read(); remaining != 0 || off() != 0 {
			t.Errorf("at first the clock is %v off, and %v remain", off(), remaining)
		}
		time.Sleep(time.Hour)
		ahead += 900 * time.Millisecond
		if remaining := read(); remaining != 0 || off() != 0 {
			t.Errorf("after a small change the clock is %v off, and %v remain", off(), remaining)
		}
		for _, jump := range []time.Duration{5 * time.Second, -5 * time.Second} {
			ahead += jump
			for i := range 5 {
				time.Sleep(clockInterval)
				read()
				if want := (4 - time.Duration(i)) * time.Second; off().Abs() != want {
					t.Errorf("%v after a jump by %v the clock is %v off, want %v", time.Duration(i+1)*clockInterval, jump, off(), want)
				}
			}
		}
		// This machine was suspended for an hour. Its wall clock went on, the other did not.
		c.wall -= time.Hour
		ahead += time.Hour
		if remaining := read(); remaining != 0 || off() != 0 {
			t.Errorf("after a suspension the clock is %v off, and %v remain", off(), remaining)
		}
	})
}

// An expiry is a whole second, and not before the end of the ttl.
func TestExpiry(t *testing.T) {
	for _, c := range []struct {
		nano int64
		ttl  time.Duration
		want int64
	}{{10e9, time.Second, 11}, {10e9 + 1, time.Second, 12}, {10e9 + 999e6, time.Millisecond, 11}, {10e9, 0, 10}} {
		if got := expiry(c.nano, c.ttl); got != c.want {
			t.Errorf("expiry(%d, %v) = %d, want %d", c.nano, c.ttl, got, c.want)
		}
	}
}

// A peer counts for two fifths of its ttl, however long nothing is asked.
func TestTotalCounts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newTotal()
		expect := func(want int) {
			t.Helper()
			c.mu.Lock()
			c.advance()
			c.mu.Unlock()
			if got := c.sum(); got != want {
				t.Fatalf("after %v: %d peers, want %d", time.Since(c.start), got, want)
			}
		}
		for range 100 {
			c.announced(100)
		}
		c.announced(int64(maxTTL / time.Second))
		c.announced(1)
		expect(102)
		time.Sleep(39 * time.Second)
		expect(101)
		time.Sleep(time.Second)
		expect(1)
		time.Sleep(maxTTL*2/5 - 41*time.Second)
		expect(1)
		time.Sleep(time.Second)
		expect(0)
		c.announced(1000)
		time.Sleep(100 * time.Hour)
		expect(0)
		for range 20_000 { // around the ring of buckets
			c.announced(10)
			c.announced(int64(maxTTL / time.Second))
			time.Sleep(time.Second)
			c.held.Add(1)
		}
		expect(20_000 + 3 + int(maxTTL*2/5/time.Second) - 1)
	})
}
