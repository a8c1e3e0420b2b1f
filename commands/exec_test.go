package commands

import (
	"testing"
	"time"
)

// A command that goes on failing is tried less and less often, and once a minute in the end.
func TestLonger(t *testing.T) {
	pause, all := time.Duration(0), time.Duration(0)
	for _, want := range []time.Duration{1, 2, 4, 8, 16, 32, 60, 60} {
		if pause = longer(pause); pause != want*time.Second {
			t.Errorf("after %v another %v, want %v", all, pause, want*time.Second)
		}
		all += pause
	}
}
