package tracker

// Tracks is how many tracks take up memory.
func (m *Memory) Tracks() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return len(m.tracks)
}
