package tracker

// Streams returns the number of open event streams.
func (t *Tracker) Streams() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return len(t.streams)
}

// EndStep does one step of ending all streams, before index end, and returns the end of the next one.
func (t *Tracker) EndStep(end int) int { return t.endSome(end, func(*Stream) bool { return true }) }

// Sharers returns how many entries the maps of sharers have.
func (t *Tracker) Sharers() (n int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, s := range t.shared {
		n += 1 + len(s.streams) + len(s.ids)
	}
	return n
}

// Waiting returns how many calls of a store that may block have not returned.
func (t *Tracker) Waiting() int { return int(t.store.(*gate).calls.Load()) }
