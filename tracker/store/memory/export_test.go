package memory

import (
	"sync/atomic"
	"time"
)

// Tracks is how many tracks have memory.
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

// Sweep does at once what a timer does every second, and every few seconds.
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

// Pages is how many pages the store has memory for.
func (m *Store) Pages() (n int) {
	for i := range m.shards {
		s := &m.shards[i]
		s.mu.Lock()
		n += s.tracks.have() + s.keys.have() + s.heads.have() + s.words.have() + s.ids.have()
		s.mu.Unlock()
	}
	return n
}

func (s *slab[T]) have() (n int) {
	for _, p := range s.pages {
		if p.items != nil {
			n++
		}
	}
	return n
}

// NewStoppable returns an empty store, and a function that stops its process for a time, in which
// no call comes and no timer fires.
func NewStoppable() (m *Store, stop func(time.Duration)) {
	m = New()
	var stopped atomic.Int64
	machine := m.clock.machine
	m.clock.machine = func() time.Duration { return machine() + time.Duration(stopped.Load()) }
	return m, func(d time.Duration) { stopped.Add(int64(d)) }
}
