package tracker

// Tracks is how many tracks take up memory.
func (m *Memory) Tracks() int {
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

// Sweep does now what a timer does every few seconds.
func (m *Memory) Sweep() { m.sweep() }

// Streams is how many event streams the tracker knows of.
func (t *Tracker) Streams() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return len(t.streams)
}
