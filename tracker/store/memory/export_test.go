package memory

import (
	"fmt"
	"sync/atomic"
	"time"
)

// Tracks is how many tracks the store has, lapsed ones included.
func (m *Store) Tracks() int {
	n := 0
	for i := range m.shards {
		s := &m.shards[i]
		s.mu.Lock()
		for h := s.tracks.from(0); h != 0; h = s.tracks.from(h + 1) {
			n++
		}
		s.mu.Unlock()
	}
	return n
}

// Sweep sweeps and trims the store immediately. In use, a timer does both.
func (m *Store) Sweep() {
	m.sweep()
	m.trim()
}

// Watched is how many keys have watchers.
func (m *Store) Watched() (n int) {
	for i := range m.shards {
		s := &m.shards[i]
		s.mu.Lock()
		n += len(s.watched)
		s.mu.Unlock()
	}
	return n
}

// Pages is how many pages with memory the slabs of the store have.
func (m *Store) Pages() (n int) {
	for i := range m.shards {
		s := &m.shards[i]
		s.mu.Lock()
		n += s.tracks.pagesInUse() + s.keys.pagesInUse() + s.heads.pagesInUse() + s.words.pagesInUse() + s.ids.pagesInUse()
		s.mu.Unlock()
	}
	return n
}

func (s *slab[T]) pagesInUse() (n int) {
	for _, p := range s.pages {
		if p.items != nil {
			n++
		}
	}
	return n
}

// NewStoppable returns an empty store, and a function that does to the store's clock what a stop of
// the process for d would do. The function returns immediately.
func NewStoppable() (m *Store, stop func(d time.Duration)) {
	m = New()
	var stopped atomic.Int64
	machine := m.clock.machine
	m.clock.machine = func() time.Duration { return machine() + time.Duration(stopped.Load()) }
	return m, func(d time.Duration) { stopped.Add(int64(d)) }
}

// WatchPeak makes the store remember the most bytes that its table has taken. Peak returns them, with
// those of the counters of addresses.
func (m *Store) WatchPeak() { m.ledger.peak = new(atomic.Int64) }

func (m *Store) Peak() int64 {
	n := m.ledger.peak.Load()
	for i := range m.shards {
		s := &m.shards[i]
		s.addrMu.Lock()
		n += int64(counterBytes * len(s.addrs))
		s.addrMu.Unlock()
	}
	return n
}

// ChangeBytes is what the changes that wait for subscriptions count for.
func (m *Store) ChangeBytes() int64 { return m.changes.Load() }

// CheckBytes returns an error if the bytes of the pages and arrays are not those that the store has
// counted, or if some stay reserved.
func (m *Store) CheckBytes() error {
	n := 0
	for i := range m.shards {
		s := &m.shards[i]
		s.mu.Lock()
		n += s.bytes()
		s.mu.Unlock()
	}
	n += int(m.changes.Load())
	if taken, reserved := m.ledger.taken.Load(), m.ledger.reserved.Load(); taken != int64(n) || reserved != 0 {
		return fmt.Errorf("%d bytes are counted, %d taken, and %d reserved", taken, n, reserved)
	}
	return nil
}
