package main

import (
	"io"
	"strings"
	"testing"
)

// The verdict compares the last third of the rests with the first one, without the first wave.
func TestVerdict(t *testing.T) {
	const mib = 1 << 20
	rests := func(n int, of func(i int) figures) (all []figures) {
		for i := range n {
			all = append(all, of(i))
		}
		return all
	}
	for name, c := range map[string]struct {
		rests []figures
		want  string // in the error; "" for none
	}{
		"flat":            {rests(12, func(int) figures { return figures{15, 15, 29 * mib, 7 * mib} }), ""},
		"noise":           {rests(12, func(i int) figures { return figures{15 + float64(i%2), 15, 29*mib + float64(i%3)*mib, 7 * mib} }), ""},
		"a high first":    {rests(12, func(i int) figures { return figures{15 + float64(i) + 90*float64(max(0, 1-i)), 15, 29 * mib, 7 * mib} }), "goroutines grows"},
		"goroutines":      {rests(12, func(i int) figures { return figures{15 + float64(i), 15, 29 * mib, 7 * mib} }), "goroutines grows"},
		"three waves":     {rests(3, func(i int) figures { return figures{15, 15 + 2*float64(i), 29 * mib, 7 * mib} }), "descriptors grows"},
		"resident memory": {rests(12, func(i int) figures { return figures{15, 15, 29*mib + mib*float64(i), 7 * mib} }), "rss grows"},
		"heap":            {rests(12, func(i int) figures { return figures{15, 15, 29 * mib, 7*mib + 100_000*float64(i)} }), "heap grows"},
	} {
		err := (&soak{log: io.Discard, rests: c.rests}).verdict()
		if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.HasPrefix(err.Error(), c.want) || strings.Contains(err.Error(), "\n")) {
			t.Errorf("%s: %v, want %q", name, err, c.want)
		}
	}
}
