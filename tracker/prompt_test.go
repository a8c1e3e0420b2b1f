package tracker

import (
	"testing"

	"ntrack/tracker/store/memory"
)

// A waiting store may wait, whatever it is made of.
type waiting struct{ *memory.Store }

func (waiting) Prompt() bool { return false }

// A call is prompt unless the store may wait for something, or it is for all of an index.
func TestPrompt(t *testing.T) {
	table := memory.New()
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
		{&Tracker{Store: table}, "/announce?info_hash=k", "", true},
		{&Tracker{Store: struct{ *memory.Store }{table}}, "/ntrk/k", "", true},
		{&Tracker{Store: waiting{table}}, "/ntrk/k", "", false},
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

// A reply is large where a request wants many peers, and where it is not plain how many it wants.
func TestLarge(t *testing.T) {
	for target, large := range map[string]bool{
		"/ntrk/k":                               false,
		"/ntrk/k?port=1":                        false,
		"/ntrk/k?numwant=":                      false,
		"/ntrk/k?numwant=0":                     false,
		"/ntrk/k?numwant=200":                   false,
		"/ntrk/k?numwant=0000200&port=1":        false,
		"/ntrk/k?numwant=201":                   true,
		"/ntrk/k?port=1&numwant=1000&compact=1": true,
		"/announce?info_hash=k&numwant=99999999999999999999999999": true,
		"/ntrk/k?numwant=%31000":                                   true,
		"/ntrk/k?numwant=-1":                                       true,
		"/ntrk/k?numwant=1&numwant=1000":                           true,
		"/ntrk/k?xnumwant=1&numwant=1000":                          true,
		"/ntrk/numwant=1000":                                       true,
	} {
		if got := new(Tracker).Large(&Call{Method: "GET", Target: []byte(target)}); got != large {
			t.Errorf("%s: %t", target, got)
		}
	}
}
