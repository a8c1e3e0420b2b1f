package valkey

import (
	"fmt"
	"hash/maphash"
	"testing"
)

// A track overwrites the hint of a smaller one that has the same place, but not of a larger one: small
// tracks need none.
func TestHintsOfLargeTracksStay(t *testing.T) {
	s := &Store{hints: newHints()}
	place := func(key string) uint64 { return maphash.String(s.hints.seed, key) % hintSlots }
	other := ""
	for i := 0; other == ""; i++ {
		if key := fmt.Sprint("other ", i); place(key) == place("key") {
			other = key
		}
	}
	remember := func(key string, peers int) {
		q := query{store: s, key: []byte(key)}
		q.counts[0] = peers
		q.remember()
	}
	for _, step := range []struct {
		key   string
		peers int
		kept  string // which of the two has a hint then
	}{
		{"key", 100, "key"},
		{other, 5, "key"},
		{"key", 3, "key"}, // it shrinks
		{other, 5, other},
		{"key", 100, "key"},
	} {
		remember(step.key, step.peers)
		for _, key := range []string{"key", other} {
			if _, found := s.hints.get([]byte(key)); found != (key == step.kept) {
				t.Fatalf("after %d peers of %q, a hint of %q: %v", step.peers, step.key, key, found)
			}
		}
	}
	s.hints.start = s.hints.start.Add(-2 * maxHintAge)
	if _, found := s.hints.get([]byte("key")); found {
		t.Error("an old hint is used")
	}
	if remember(other, 5); place("key") != place(other) {
		t.Fatal("the keys have different places")
	}
	if _, found := s.hints.get([]byte(other)); !found {
		t.Error("an old hint is not overwritten")
	}
}
