//go:build race

package tracker_test

// raceEnabled: the race detector makes sync.Pool drop things at random, so allocations do not count.
const raceEnabled = true
