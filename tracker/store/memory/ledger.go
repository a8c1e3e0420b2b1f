package memory

import "sync/atomic"

// A ledger counts the bytes of a table: those of its pages and arrays, and of the changes that wait
// for subscriptions. A call reserves what it may take at most before it changes anything. So the sum
// never exceeds the limit, also not while an array grows and both of its sizes are in memory.
type ledger struct {
	taken    atomic.Int64
	reserved atomic.Int64  // by calls that have begun
	peak     *atomic.Int64 // the most that was ever taken; nil except in tests
}

// take counts n bytes that have been allocated, or given back if n is negative.
func (l *ledger) take(n int) {
	now := l.taken.Add(int64(n))
	if l.peak == nil {
		return
	}
	for peak := l.peak.Load(); now > peak && !l.peak.CompareAndSwap(peak, now); {
		peak = l.peak.Load()
	}
}

// reserve reserves n bytes, unless the table would then exceed most. With 0 bytes it succeeds.
func (l *ledger) reserve(n int, most int64) bool {
	if n == 0 {
		return true
	}
	// A call first takes its bytes, and then releases them. If this read taken before reserved, it could
	// miss bytes of another call.
	if reserved := l.reserved.Add(int64(n)); l.taken.Load()+reserved > most {
		l.reserved.Add(-int64(n))
		return false
	}
	return true
}

// release ends the reservation of n bytes, once they are taken or not needed.
func (l *ledger) release(n int) {
	if n != 0 {
		l.reserved.Add(-int64(n))
	}
}
