package memory

import (
	"math/rand/v2"
	"testing"
)

// Blocks of all sizes come zeroed, do not overlap, are found by from, and are gone when freed.
func TestSlab(t *testing.T) {
	s := slab[uint32]{perPage: 1024}
	taken := map[handle]uint32{} // and what is written all over the block
	for step := range uint32(100_000) {
		if rand.IntN(1000) == 0 {
			s.trim()
		}
		// Now many blocks, now few.
		if rand.IntN(100) < 70-40*int(step/20_000%2) {
			n := 1 + rand.IntN(40)
			if rand.IntN(20) == 0 {
				n = 1 + rand.IntN(3000)
			}
			h := s.alloc(n)
			if _, ok := taken[h]; ok || h == 0 {
				t.Fatalf("handle %d for two", h)
			}
			block := s.at(h)
			if len(block) < n || n > 8 && len(block) > n*5/4 {
				t.Fatalf("%d for %d", len(block), n)
			}
			for i := range block {
				if block[i] != 0 {
					t.Fatal("a block is not zeroed, or overlaps")
				}
				block[i] = step + 1
			}
			taken[h] = step + 1
			continue
		}
		for h, mark := range taken {
			for _, v := range s.at(h) {
				if v != mark {
					t.Fatal("a block was overwritten")
				}
			}
			s.free(h)
			delete(taken, h)
			break
		}
	}
	n := 0
	for h := s.from(0); h != 0; h = s.from(h + 1) {
		if _, ok := taken[h]; !ok {
			t.Fatalf("handle %d is nobody's", h)
		}
		n++
	}
	if n != len(taken) {
		t.Errorf("%d blocks found of %d", n, len(taken))
	}
	for h := range taken {
		s.free(h)
	}
	s.trim()
	for i := range s.pages {
		if s.pages[i].items != nil {
			t.Fatalf("page %d is not given back", i)
		}
	}
}
