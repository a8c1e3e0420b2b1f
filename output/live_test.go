package output_test

import (
	"bytes"
	"net/netip"
	"strings"
	"testing"
	"time"

	"ntrack/announce"
	"ntrack/output"
)

// If the terminal becomes narrower, it wraps the lines on it. The next table replaces all of them.
func TestLiveNarrower(t *testing.T) {
	var out bytes.Buffer
	columns := 80
	l := output.Live{Out: &out, Size: func() (int, int) { return columns, 24 }}
	peer := netip.MustParseAddrPort("192.0.2.1:4000")
	l.Record(announce.Event{Type: announce.EventPeers}, time.Now())
	l.Record(announce.Event{Type: announce.EventJoin, Peer: peer, Peers: []netip.AddrPort{peer}}, time.Now())
	if err := l.Draw(); err != nil {
		t.Fatal(err)
	}
	if !strings.HasPrefix(out.String(), "\rPEER") {
		t.Errorf("the first table is %q", &out)
	}
	// The lines have 32, 41 and 36 columns. Each key is the new width, each value the expected move up.
	for narrow, up := range map[int]string{41: "\r\x1b[3A", 40: "\r\x1b[4A", 20: "\r\x1b[7A", 1: "\r\x1b[23A"} {
		columns = 80
		if err := l.Draw(); err != nil {
			t.Fatal(err)
		}
		out.Reset()
		columns = narrow
		if err := l.Draw(); err != nil {
			t.Fatal(err)
		}
		if !strings.HasPrefix(out.String(), up) {
			t.Errorf("at %d columns it draws %q, want %q first", narrow, &out, up)
		}
	}
}
