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
