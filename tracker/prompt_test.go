package tracker

import "testing"

// A call is prompt unless the store may wait for something, or it is for all of an index.
func TestPrompt(t *testing.T) {
	memory := NewMemory()
	for _, tt := range []struct {
		tracker *Tracker
		target  string
		accept  string
		prompt  bool
	}{
		{&Tracker{}, "/ntrk/k", "", true},
		{&Tracker{}, "/ntrk/", "", true},
		{&Tracker{}, "/ntrk/k", "application/json, */*", true},
		{&Tracker{}, "/ntrk/k", "text/plain;q=0.1, Text/Event-Stream", false},
		{&Tracker{Store: memory}, "/announce?info_hash=k", "", true},
		{&Tracker{Store: struct{ *Memory }{memory}}, "/ntrk/k", "", false},
		{&Tracker{Index: true}, "/ntrk/k", "", true},
		{&Tracker{Index: true}, "/ntrk/", "", false},
		{&Tracker{Index: true}, "/ntrk/?format=json", "", false},
		{&Tracker{Index: true}, "http://h/ntrk/", "", false},
		{&Tracker{Index: true}, "/scrape", "", false},
		{&Tracker{Index: true}, "/scrape?x_info_hash=k", "", false},
		{&Tracker{Index: true}, "/announce?info_hash=/scrape", "", true},
	} {
		if got := tt.tracker.Prompt(&Call{Method: "GET", Target: []byte(tt.target), Accept: []byte(tt.accept)}); got != tt.prompt {
			t.Errorf("%s, %q, index %t, store %T: %t", tt.target, tt.accept, tt.tracker.Index, tt.tracker.Store, got)
		}
	}
}
