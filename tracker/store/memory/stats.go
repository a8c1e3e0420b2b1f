package memory

import (
	"unsafe"

	"ntrack/announce/wire"
	"ntrack/tracker/store"
)

// Stats returns the numbers of the store. It takes each shard's lock for a moment, whatever the number
// of tracks.
func (m *Store) Stats() store.Stats {
	st := store.Stats{Keys: int(m.keys.Load()), Peers: int(m.peers.Load()), Limits: m.Limits}
	for i := range m.shards {
		s := &m.shards[i]
		s.mu.Lock()
		st.Bytes += s.tracks.bytes() + s.keys.bytes() + s.heads.bytes() + s.words.bytes() + s.ids.bytes() +
			s.buckets.bytes() + len(s.pageDue)*int(unsafe.Sizeof(expiry(0)))
		s.mu.Unlock()
		s.addrMu.Lock()
		st.Bytes += 2 * len(s.addrs)
		s.addrMu.Unlock()
	}
	return st
}

// bytes is the memory of the pages.
func (s *slab[T]) bytes() int {
	var v T
	return s.values*int(unsafe.Sizeof(v)) + cap(s.pages)*int(unsafe.Sizeof(page[wire.ID]{}))
}
