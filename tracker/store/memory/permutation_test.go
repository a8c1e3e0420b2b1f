package memory

import (
	"testing"
	"time"
)

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
	for n, most := range map[int]float64{2: 40, 3: 20, 10: 2.5, 100: 1.2, small: 1.2, small + 1: 1.2, 400: 1.2, 513: 1.2} {
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
