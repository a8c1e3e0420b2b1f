//go:build linux && (amd64 || arm64)

package main

import (
	"bytes"
	"encoding/json"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"ntrack/bench/measure"

	"go.uber.org/goleak"
)

// The test binary also runs the servers.
func TestMain(m *testing.M) {
	if len(os.Args) > 2 && os.Args[1] == "role" {
		main()
		return
	}
	goleak.VerifyTestMain(m)
}

// A run measures every section with every server. The test does not look at how large the numbers
// are.
func TestRun(t *testing.T) {
	b := &bench{rounds: 3, retries: 1, time: 30 * time.Millisecond, warm: 10 * time.Millisecond, rest: 10 * time.Millisecond,
		keys: 20, million: 5000, clients: 8, crowd: true, log: io.Discard}
	b.streams = streamsPlan{Growth: []int{10, 30}, Resting: 30, Watched: 20, Joins: 2, Every: time.Second / 10, Burst: 30}
	dir := t.TempDir()
	jsonFile, mdFile := filepath.Join(dir, "json"), filepath.Join(dir, "md")
	beginMark, endMark := measure.Marks(mark)
	if err := os.WriteFile(mdFile, []byte("above\n"+beginMark+"old\n"+endMark+"below\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	if err := b.run(&out, jsonFile, mdFile); err != nil {
		t.Fatal(err)
	}
	t.Logf("%s", out.Bytes())
	md, err := os.ReadFile(mdFile)
	if err != nil || !strings.HasPrefix(string(md), "above\n"+beginMark) || strings.Contains(string(md), "old\n") ||
		!strings.Contains(string(md), out.String()) || !strings.HasSuffix(string(md), endMark+"below\n") {
		t.Errorf("the document is %s, %v", md, err)
	}
	text, err := os.ReadFile(jsonFile)
	if err != nil {
		t.Fatal(err)
	}
	var r report
	if err := json.Unmarshal(text, &r); err != nil {
		t.Fatal(err)
	}
	if len(r.Modes) != 2 || len(r.Memory) != 4 || len(r.Growth) != 6 {
		t.Errorf("%d modes, %d memory plans, %d of growth", len(r.Modes), len(r.Memory), len(r.Growth))
	}
	for _, m := range r.Modes {
		for _, name := range []string{"floor", "ntrack", "nethttp"} {
			s := m.named(name)
			if s == nil || len(s.All) != b.rounds || s.CPU.Median <= 0 || s.PerSecond.Median <= 0 || s.P50.Median <= 0 || s.P99.Median < s.P50.Median || s.ToFloor <= 0 {
				t.Errorf("%s, %s: %+v", m.Mode, name, s)
			}
		}
	}
	s := r.Streams
	if s == nil || len(s.Idle) != 4 || len(s.FanOut) != 2 || len(s.Beside) != 1 || len(s.Bursts) != 1 {
		t.Fatalf("streams: %s", text)
	}
	for _, f := range s.FanOut { // a histogram may be wrong by 3 %
		if len(f.Rounds) != 2 || f.CPU.Median <= 0 || f.P50.Min < 0.97*50 || f.P99.Median < f.P50.Median {
			t.Errorf("streams of %s: %+v", f.Server, f)
		}
	}
	for _, i := range s.Idle {
		if i.Files < i.Streams {
			t.Errorf("%s has %d files open with %d streams", i.Server, i.Files, i.Streams)
		}
	}
	if b := s.Bursts[0]; b.Done != b.Members || b.Seconds <= 0 || b.CPU <= 0 || b.RSS <= 0 || b.P99 <= 0 || b.Quiet <= 0 || s.Beside[0].Without <= 0 {
		t.Errorf("a burst: %+v; announces beside streams: %+v", b, s.Beside[0])
	}
	for _, m := range append(r.Memory, r.Growth...) {
		if m.Baseline <= 0 || m.Join <= 0 || m.Renew <= 0 || m.GC <= 0 {
			t.Errorf("%+v", m)
		}
	}
}

// check finds every kind of wrong reply.
func TestWrongReplies(t *testing.T) {
	p := newPopulation(3, maxPeers, 50, true)
	good := string(floorReply("X-Padding: close"))
	for name, reply := range map[string]string{
		"another key's": strings.ReplaceAll(good, "\x7f\x00\x00\x01\x27\x10", "\x7f\x00\x00\x01\x27\x11"),
		"twice the same": strings.ReplaceAll(good, "\x7f\x00\x00\x01\x27\x10",
			string([]byte{127, 0, 0, 2, byte(p.port(0, 1) >> 8), byte(p.port(0, 1))})),
		"another address": strings.Replace(good, "300:\x7f\x00\x00\x01", "300:\x7f\x00\x00\x02", 1),
		"one less":        strings.Replace(good, "300:\x7f\x00\x00\x01\x27\x10", "294:", 1),
		"a wrong count":   strings.Replace(good, "incompletei80e", "incompletei81e", 1),
		"no peers":        strings.Replace(good, "5:peers", "5:query", 1),
		"more behind":     good + "e",
	} {
		if reply == good {
			t.Fatalf("%s: nothing was replaced", name)
		}
		if err := p.check([]byte(reply), 0, 79, false); err == nil {
			t.Errorf("%s: not found", name)
		}
	}
	if err := p.check([]byte(good), 0, 79, false); err != nil {
		t.Error(err)
	}
	if err := p.check([]byte(good), 0, 3, false); err == nil {
		t.Error("the asker in its own list: not found")
	}
	for _, head := range []string{"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n", "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\n\r\n"} {
		if n, err := replyLen([]byte(head)); err == nil {
			t.Errorf("%q: counts as a reply of %d bytes", head, n)
		}
	}
	if n, err := replyLen([]byte(good)); n != len(good) || err != nil {
		t.Errorf("a reply of %d bytes counts as one of %d, %v", len(good), n, err)
	}
}

func TestHistogram(t *testing.T) {
	var h measure.Histogram
	for i := range 1000 {
		h.Add(time.Duration(i+1) * time.Microsecond)
	}
	for share, want := range map[float64]time.Duration{0.5: 500 * time.Microsecond, 0.99: 990 * time.Microsecond} {
		if got := h.Percentile(share); got < want*95/100 || got > want*105/100 {
			t.Errorf("%v of 1 to 1000 µs: %v", share, got)
		}
	}
}
