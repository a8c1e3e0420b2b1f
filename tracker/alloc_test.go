//go:build !race

package tracker_test

import (
	"fmt"
	"net/netip"
	"testing"

	"ntrack/tracker"
)

// A request allocates nothing, also if the tracker has a page. This test does not run under the race
// detector, which makes pools allocate.
func TestAnswerAllocatesNothing(t *testing.T) {
	tr := &tracker.Tracker{Page: pageFiles()}
	call := tracker.Call{Method: "GET", Remote: netip.MustParseAddrPort("192.0.2.1:1"), Accept: []byte("application/json, text/plain;q=0.5")}
	target, dst := make([]byte, 0, 512), make([]byte, 0, 8192)
	for i := range 60 {
		call.Target = fmt.Appendf(target, "/ntrk/k?port=%d&peer_id=-qB4520-abcdefghij%02d", 1000+i, i)
		tr.Answer(t.Context(), &call, dst)
	}
	for _, tt := range []struct{ method, target string }{
		{"GET", "/ntrk/k?port=4000"},
		{"GET", "/ntrk/k?port=4000&format=text"},
		{"GET", "/ntrk/k?port=4000&compact=1&format=bencode"},
		{"GET", "/announce?info_hash=k&port=4000&compact=1&peer_id=-TR2940-k8hj0wgej6ch"},
		{"GET", "/announce?info_hash=k&port=4000"},
		{"GET", "/ntrk/k?port=0"},
		{"GET", "/ntrk/k?port=0&labels=1"},
		{"DELETE", "/ntrk/k?port=4001"},
		{"GET", "/scrape?info_hash=k"},
	} {
		n := testing.AllocsPerRun(200, func() {
			call.Method, call.Target = tt.method, append(target, tt.target...)
			if resp, _ := tr.Answer(t.Context(), &call, dst); resp.Status/100 != 2 {
				t.Error(resp.Status)
			}
		})
		if n > 0 {
			t.Errorf("%v allocations for %s %s", n, tt.method, tt.target)
		}
	}
}
