package memory

import "testing"

// Two keys of one hash are two tracks.
func TestKeysOfOneHash(t *testing.T) {
	s := &New().shards[0]
	s.rehash(8) // so that nothing is moved by its true hash
	const hash = 0xfedcba9876543210
	keys := []string{"a", "b", "ab", "a\x00"}
	handles := map[handle]bool{}
	for _, k := range keys {
		if h := s.lookup([]byte(k), hash); h != 0 {
			t.Errorf("%q is taken for %q", k, s.keyOf(s.tracks.one(h)))
		}
		handles[s.add([]byte(k), hash, 0)] = true
	}
	for _, k := range keys {
		h := s.lookup([]byte(k), hash)
		if h == 0 || string(s.keyOf(s.tracks.one(h))) != k {
			t.Errorf("%q is not found", k)
		}
		delete(handles, h)
	}
	if len(handles) > 0 {
		t.Errorf("%d keys are not found", len(handles))
	}
}
