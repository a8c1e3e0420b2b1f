package memory

import (
	"unsafe"

	"ntrack/tracker/store"
)

// Stats returns the numbers of the store. It takes the lock of each shard's counters for a moment,
// whatever the number of tracks.
func (m *Store) Stats() store.Stats {
	st := store.Stats{Keys: int(m.keys.Load()), Peers: int(m.peers.Load()), Bytes: int(m.ledger.taken.Load()), Limits: m.Limits}
	for i := range m.shards {
		s := &m.shards[i]
		s.addrMu.Lock()
		st.Bytes += counterBytes * len(s.addrs)
		s.addrMu.Unlock()
	}
	return st
}

// bytes is the memory of the shard's pages and arrays, without the counters of addresses.
func (s *shard) bytes() int {
	return s.tracks.bytes() + s.keys.bytes() + s.heads.bytes() + s.words.bytes() + s.ids.bytes() +
		s.buckets.bytes() + len(s.pageDue)*int(unsafe.Sizeof(expiry(0)))
}
