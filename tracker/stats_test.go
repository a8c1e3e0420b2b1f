package tracker_test

import (
	"net/netip"
	"testing"

	"ntrack/tracker"
)

// Each refusal counts under its reason, and under no other.
func TestStatsReasons(t *testing.T) {
	for _, tt := range []struct {
		reason, target, token string
	}{
		{"token", "/ntrk/k", ""},
		{"token", "/wrong/announce?info_hash=k&port=1", ""},
		{"denied", "/ntrk/bad", "Bearer secret"},
		{"denied", "/secret/announce?info_hash=bad&port=1", ""},
		{"not_found", "/nothing", "Bearer secret"},
		{"malformed", "/ntrk/k?port=x", "Bearer secret"},
	} {
		tr := &tracker.Tracker{Tokens: []string{"secret"}, Denial: denial(t, "key bad")}
		tr.Answer(t.Context(), &tracker.Call{Method: "GET", Target: []byte(tt.target), Authorization: []byte(tt.token), Remote: netip.MustParseAddrPort("192.0.2.1:1")}, nil)
		for reason, n := range tr.Stats().Reasons {
			if want := reason == tt.reason; n > 1 || want != (n == 1) {
				t.Errorf("%s: %d of reason %s, want one of %s", tt.target, n, reason, tt.reason)
			}
		}
	}
}
