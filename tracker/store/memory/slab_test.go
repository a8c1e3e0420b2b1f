package memory

import (
	"math/rand/v2"
	"testing"
)

// Blocks of all sizes are zeroed and do not overlap, and from finds them until they are freed.
func TestSlab(t *testing.T) {
	s := slab[uint32]{perPage: 1024, ledger: new(ledger)}
	taken := map[handle]uint32{} // the number with which the test has filled each block
	for step := range uint32(100_000) {
		if rand.IntN(1000) == 0 {
			s.trim()
		}
		// The number of blocks grows and shrinks.
		if rand.IntN(100) < 70-40*int(step/20_000%2) {
			n := 1 + rand.IntN(40)
			if rand.IntN(20) == 0 {
				n = 1 + rand.IntN(3000)
			}
			before, need := s.ledger.taken.Load(), s.need(n)
			h := s.alloc(n)
			if took := int(s.ledger.taken.Load() - before); took > need || need == 0 && took != 0 {
				t.Fatalf("a block for %d took %d bytes, and needs %d", n, took, need)
			}
			if int(s.ledger.taken.Load()) != s.bytes() {
				t.Fatalf("%d bytes are counted, and %d used", s.ledger.taken.Load(), s.bytes())
			}
			if _, ok := taken[h]; ok || h == 0 {
				t.Fatalf("handle %d is taken twice", h)
			}
			block := s.at(h)
			if len(block) < n || n > 8 && len(block) > n*5/4 {
				t.Fatalf("a block for %d has %d", n, len(block))
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
			for _, n := range s.at(h) {
				if n != mark {
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
			t.Fatalf("handle %d is not taken", h)
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
			t.Fatalf("page %d has memory", i)
		}
	}
}

// A slab uses the memory of freed blocks and the numbers of freed pages again.
func TestSlabReuses(t *testing.T) {
	s := slab[uint32]{perPage: 1024, ledger: new(ledger)}
	var blocks []handle
	for range 10_000 { // enough blocks to make the slab use larger pages
		blocks = append(blocks, s.alloc(1))
	}
	pages := len(s.pages)
	for i := 0; i < len(blocks); i += 7 { // some blocks of every page
		s.free(blocks[i])
	}
	for i := 0; i < len(blocks); i += 7 {
		blocks[i] = s.alloc(1)
	}
	if len(s.pages) != pages {
		t.Errorf("%d pages, and %d after some blocks were freed and allocated again", pages, len(s.pages))
	}
	seen := map[handle]bool{}
	for _, h := range blocks {
		if seen[h] {
			t.Fatal("a block is taken twice")
		}
		seen[h] = true
	}
	for round := range 20 {
		for _, h := range blocks {
			s.free(h)
		}
		if most := 5 + len(s.pages)/32; s.idle > most {
			t.Errorf("%d of %d pages are idle", s.idle, len(s.pages))
		}
		if round%2 > 0 {
			s.trim()
		}
		blocks = blocks[:0]
		for range 10_000 / (1 + round%3) {
			blocks = append(blocks, s.alloc(1+round%3))
		}
		for range 20 { // large blocks, one on each page
			blocks = append(blocks, s.alloc(2000))
		}
	}
	if len(s.pages) > 2*pages {
		t.Errorf("%d pages, and %d after several rounds: their numbers are not used again", pages, len(s.pages))
	}
}
