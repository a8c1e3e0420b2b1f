package memory

import (
	"fmt"
	"net/netip"
	"testing"
	"time"

	"ntrack/announce/wire"
	"ntrack/tracker/store"
)

// Whatever is wanted is given, and no more of a family than it has.
func TestShares(t *testing.T) {
	for n4 := range 40 {
		for n6 := range 40 {
			for want := 1; want < 50; want++ {
				for range 4 {
					s := shares(want, n4, n6)
					if s[0] < 0 || s[0] > n4 || s[1] < 0 || s[1] > n6 || s[0]+s[1] != min(want, n4+n6) {
						t.Fatalf("%d of %d and %d: %v", want, n4, n6, s)
					}
				}
			}
		}
	}
}

// A search for few peers among very many that are hidden ends after a while, found or not: others
// wait for it.
func TestSearchIsBounded(t *testing.T) {
	m := New()
	for i := range 100_000 {
		p := wire.Peer{Endpoint: netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)}), 1)}
		if i == 0 {
			p.Endpoint = netip.MustParseAddrPort("192.0.2.1:1")
		}
		if _, _, err := m.Announce(t.Context(), []byte("k"), p, func(store.Size) time.Duration { return time.Hour }, store.Want{}, nil); err != nil {
			t.Fatal(err)
		}
	}
	found := 0
	const rounds = 500
	for range rounds {
		peers, r, err := m.Look(t.Context(), []byte("k"), netip.MustParseAddr("192.0.2.9"), store.Want{Peers: 50}, nil)
		if err != nil || r.Count != 1 {
			t.Fatal(r, err)
		}
		found += len(peers)
	}
	if found == rounds {
		t.Error("the one is found each time: the whole table is searched")
	}
	if found == 0 { // which happens once in 10^16 runs
		t.Error("the one is never found: each search begins at the same place")
	}
}

// Store that blocks take, and their numbers, are used again.
func TestSlabReuses(t *testing.T) {
	s := slab[uint32]{perPage: 1024}
	var blocks []handle
	for range 10_000 { // more pages than are kept small
		blocks = append(blocks, s.alloc(1))
	}
	pages := len(s.pages)
	for i := 0; i < len(blocks); i += 7 { // there is room in every page
		s.free(blocks[i])
	}
	for i := 0; i < len(blocks); i += 7 {
		blocks[i] = s.alloc(1)
	}
	if len(s.pages) != pages {
		t.Errorf("%d pages, and %d after some blocks were freed and taken again", pages, len(s.pages))
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
			t.Errorf("%d pages are idle of %d", s.idle, len(s.pages))
		}
		if round%2 > 0 {
			s.trim()
		}
		blocks = blocks[:0]
		for range 10_000 / (1 + round%3) {
			blocks = append(blocks, s.alloc(1+round%3))
		}
		for range 20 { // large ones, one to a page
			blocks = append(blocks, s.alloc(2000))
		}
	}
	if len(s.pages) > 2*pages {
		t.Errorf("%d pages, and %d after several rounds: their numbers are not used again", pages, len(s.pages))
	}
}

// IDs take memory where somebody has one, and nowhere else.
func TestNoIDsNoMemory(t *testing.T) {
	m := New()
	for i := range 1000 {
		p := wire.Peer{Endpoint: netip.AddrPortFrom(netip.MustParseAddr("192.0.2.1"), uint16(1+i))}
		if _, _, err := m.Announce(t.Context(), fmt.Append(nil, i%10), p, func(store.Size) time.Duration { return time.Hour }, store.Want{}, nil); err != nil {
			t.Fatal(err)
		}
	}
	for i := range m.shards {
		if n := len(m.shards[i].ids.pages); n > 0 {
			t.Errorf("%d pages for no IDs", n)
		}
	}
}

func (p *permutation) next() int {
	var out [1]int
	p.fill(out[:])
	return out[0]
}

// soon fails the test where f, which may wait for nothing, has no end.
func soon(t *testing.T, f func()) {
	t.Helper()
	done := make(chan struct{})
	go func() {
		defer close(done)
		f()
	}()
	select {
	case <-done:
	case <-time.After(time.Minute):
		t.Fatal("this has no end")
	}
}

// Every pair comes first as often as any other: by chi-square over its degrees of freedom, which
// is 1 on average and, with this many, beyond 1.2 less than once in a million runs where n >= 100.
func TestPermutation(t *testing.T) { soon(t, func() { pairsOfPermutation(t) }) }

func pairsOfPermutation(t *testing.T) {
	const draws = 400_000
	var p permutation
	for n, most := range map[int]float64{2: 40, 3: 20, 10: 2.5, 100: 1.2, maxShuffled: 1.2, maxShuffled + 1: 1.2, 400: 1.2, 513: 1.2} {
		pairs := make([][]int, n)
		for i := range pairs {
			pairs[i] = make([]int, n)
		}
		for range draws {
			p.init(n)
			pairs[p.next()][p.next()]++
		}
		expected, chi := draws/float64(n*(n-1)), 0.0
		for i := range n {
			for j := range n {
				if d := float64(pairs[i][j]) - expected; i != j {
					chi += d * d / expected
				}
			}
		}
		if chi /= float64(n*(n-1) - 1); chi > most {
			t.Errorf("of %d: chi-square is %.2f per degree of freedom, want about 1", n, chi)
		}
	}
}

func TestPermutationIsComplete(t *testing.T) {
	soon(t, func() {
		var p permutation
		for _, n := range []int{1, 2, 3, 100, 255, 256, 257, 128, 129, 1000, 1024, 1025} {
			p.init(n)
			seen := make([]bool, n)
			for range n {
				i := p.next()
				if i < 0 || i >= n || seen[i] {
					t.Errorf("of %d: %d is twice there, or out of range", n, i)
					return
				}
				seen[i] = true
			}
		}
	})
}
