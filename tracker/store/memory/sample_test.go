package memory

import (
	"net/netip"
	"testing"
	"time"

	"ntrack/announce/wire"
	"ntrack/tracker/store"
)

// The shares add up to the peers that are wanted, and no share is more than its family has.
func TestShares(t *testing.T) {
	for n4 := range 40 {
		for n6 := range 40 {
			for want := 1; want < 50; want++ {
				for range 4 {
					s := shares(want, n4, n6)
					if s[0] < 0 || s[0] > n4 || s[1] < 0 || s[1] > n6 || s[0]+s[1] != min(want, n4+n6) {
						t.Fatalf("the shares of %d from %d and %d peers are %v", want, n4, n6, s)
					}
				}
			}
		}
	}
}

// A draw ends after maxSteps slots even if nearly all peers are hidden, because other calls wait
// for it.
func TestDrawIsBounded(t *testing.T) {
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
		t.Error("each draw finds the only visible peer, so it visits the whole table")
	}
	if found == 0 { // by chance less than once in 10^16 runs
		t.Error("no draw finds the only visible peer, so all draws visit the same slots")
	}
}

func (p *permutation) next() int {
	var out [1]int
	p.fill(out[:])
	return out[0]
}

// mustEnd fails the test if f, which never waits, does not end.
func mustEnd(t *testing.T, f func()) {
	t.Helper()
	done := make(chan struct{})
	go func() {
		defer close(done)
		f()
	}()
	select {
	case <-done:
	case <-time.After(time.Minute):
		t.Fatal("the permutation does not end")
	}
}

// Every pair comes first as often as any other. Chi-square, divided by its degrees of freedom, is 1
// on average. If n is 100 or more, it exceeds 1.2 by chance less than once in a million runs.
func TestPermutation(t *testing.T) { mustEnd(t, func() { testPairs(t) }) }

func testPairs(t *testing.T) {
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
			t.Errorf("n = %d: chi-square is %.2f per degree of freedom, want about 1", n, chi)
		}
	}
}

func TestPermutationIsComplete(t *testing.T) {
	mustEnd(t, func() {
		var p permutation
		for _, n := range []int{1, 2, 3, 100, 255, 256, 257, 128, 129, 1000, 1024, 1025} {
			p.init(n)
			seen := make([]bool, n)
			for range n {
				i := p.next()
				if i < 0 || i >= n || seen[i] {
					t.Errorf("n = %d: %d comes twice, or is out of range", n, i)
					return
				}
				seen[i] = true
			}
		}
	})
}
