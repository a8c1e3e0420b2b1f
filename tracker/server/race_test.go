//go:build race

package server_test

// underRace says that the race detector is on, which makes a program several times slower.
const underRace = true
