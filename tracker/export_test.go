package tracker

// Streams is how many event streams the tracker knows of.
func (t *Tracker) Streams() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return len(t.streams)
}

// Sharers is how many streams are remembered with the peer id that they gave.
func (t *Tracker) Sharers() (n int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, s := range t.sharers {
		n += 1 + len(s.streams) + len(s.ids)
	}
	return n
}
