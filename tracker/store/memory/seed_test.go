package memory

import "testing"

// Nobody can choose keys or endpoints that collide, because each store hashes them in its own way.
func TestSeeds(t *testing.T) {
	a, b := New(), New()
	_, one := a.shardOf([]byte("key"))
	_, two := b.shardOf([]byte("key"))
	if one == two {
		t.Errorf("two stores have the hash %x for a key", one)
	}
	if a.peerSeed[0] == b.peerSeed[0] || a.peerSeed[1] == b.peerSeed[1] {
		t.Errorf("two stores have the seeds %x and %x for endpoints", a.peerSeed, b.peerSeed)
	}
}
