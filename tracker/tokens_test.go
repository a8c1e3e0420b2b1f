package tracker_test

import (
	"net/netip"
	"testing"
	"testing/synctest"

	"ntrack/tracker"
)

// Each of several tokens is enough, and streams end whose token is no longer one of them.
func TestTokens(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tr := &tracker.Tracker{Tokens: []string{"one", "two"}}
		open := func(token string) (tracker.Response, *tracker.Stream) {
			c := &tracker.Call{Method: "GET", Target: []byte("/ntrk/k?port=0"), Remote: netip.MustParseAddrPort("127.0.0.1:4000"), Accept: []byte("text/event-stream")}
			if token != "" {
				c.Authorization = []byte("Bearer " + token)
			}
			resp, _ := tr.Answer(t.Context(), c, nil)
			if resp.Stream != nil {
				t.Cleanup(resp.Stream.Close)
			}
			return resp, resp.Stream
		}
		live := func(s *tracker.Stream) bool {
			_, live := s.Append(nil, wake{})
			return live
		}
		for _, wrong := range []string{"", "on", "onetwo", "two "[:3] + "x"} {
			if resp, _ := open(wrong); resp.Status != 401 {
				t.Errorf("token %q: status %d, want 401", wrong, resp.Status)
			}
		}
		_, one := open("one")
		_, two := open("two")
		if one == nil || two == nil {
			t.Fatal("one of the tokens is refused")
		}
		tr.SetTokens("three", "two")
		if live(one) || !live(two) {
			t.Errorf("without its token the stream is live: %v; with it: %v", live(one), live(two))
		}
		tr.SetTokens()
		_, none := open("")
		if !live(two) || !live(none) {
			t.Error("a stream ends although no token is needed")
		}
		tr.SetTokens("two")
		if live(none) || !live(two) {
			t.Error("a stream without a token stays open, or one with a token ends")
		}
	})
}

type wake struct{}

func (wake) Wake() {}
