package tracker

// Streams returns the number of open event streams.
func (t *Tracker) Streams() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return len(t.streams)
}

// Sharers returns how many entries the maps of sharers have.
func (t *Tracker) Sharers() (n int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, s := range t.shared {
		n += 1 + len(s.streams) + len(s.ids)
	}
	return n
}
