//go:build linux

package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"ntrack/bench/measure"
)

// The test binary also runs the roles.
func TestMain(m *testing.M) {
	if len(os.Args) > 2 && os.Args[1] == "role" {
		main()
		return
	}
	goleak.VerifyTestMain(m)
}

// runTest plays attacks in small. The tests do not look at how well the servers stand them.
func runTest(t *testing.T, only ...string) report {
	t.Helper()
	b := &bench{only: only, time: time.Second / 3, settle: time.Second / 10, shrink: 100, memory: "512M", ceiling: 512 << 20, parallel: 2, log: t.Output()}
	b.honest = honestPlan{Rate: 200, Interval: time.Second, Streams: 20, Kept: 20}
	var out bytes.Buffer
	dir := t.TempDir()
	jsonFile, mdFile := filepath.Join(dir, "json"), filepath.Join(dir, "md")
	begin, end := measure.Marks(mark)
	if err := os.WriteFile(mdFile, []byte("above\n"+begin+end), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := b.run(t.Context(), &out, jsonFile, mdFile); err != nil {
		t.Fatal(err)
	}
	t.Logf("%s", &out)
	if md, err := os.ReadFile(mdFile); err != nil || !strings.Contains(string(md), out.String()) {
		t.Errorf("the document is %s, %v", md, err)
	}
	var r report
	text, err := os.ReadFile(jsonFile)
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(text, &r); err != nil {
		t.Fatal(err)
	}
	for _, x := range r.Rows {
		if h := x.Honest; h.Renewals.Answered == 0 || h.Joins.Asked == 0 || h.Renewals.P50 <= 0 || h.Renewals.P99 < h.Renewals.P50 {
			t.Errorf("%s, %s: the honest clients saw %+v", x.Server, x.Attack, h)
		}
		if x.Peak.RSS < 1<<20 || x.CPU <= 0 || x.Peak.Files < x.Start.Files {
			t.Errorf("%s, %s: from %+v to %+v, %.2f CPUs", x.Server, x.Attack, x.Start, x.Peak, x.CPU)
		}
		if x.Died != "" {
			t.Errorf("%s, %s: the server ended: %s", x.Server, x.Attack, x.Died)
		}
	}
	if g := newGroup(); g != nil {
		if err := g.remove(); err != nil {
			t.Error(err)
		}
		if left, err := filepath.Glob(filepath.Join(filepath.Dir(g.dir), groupName+fmt.Sprint(os.Getpid()))); err != nil || len(left) > 0 {
			t.Errorf("control groups are left: %q, %v", left, err)
		}
	}
	return r
}

// The other servers can be attacked, too. opentracker has to be installed where NTRACK_INTEROP is 1.
func TestOthers(t *testing.T) {
	r := runTest(t, nethttpServer, "keys48", "tls")
	for _, name := range []string{"keys48", "tls"} {
		if x := r.row(nethttpServer, name); x == nil || x.Gain.Answered < 10 || x.Honest.FalseLeaves != 0 {
			t.Errorf("%s: %+v", name, x)
		}
	}
	if _, err := exec.LookPath(openServer); err != nil && os.Getenv("NTRACK_INTEROP") != "1" {
		t.Log(err)
		return
	}
	r = runTest(t, openServer, "keys")
	if x := r.row(openServer, "keys"); x == nil || x.Gain.Refused < 10 || x.Gain.Answered != 0 || x.Honest.Joins.Answered == 0 {
		t.Errorf("keys that are not in the list of opentracker: %+v", x)
	}
}

// Every attack does what its row says.
func TestAttacks(t *testing.T) {
	r := runTest(t, ntrackServer)
	for _, a := range attacks {
		x := r.row(ntrackServer, a.name)
		if x == nil {
			t.Errorf("no row for %s", a.name)
			continue
		}
		g := x.Gain
		if x.Start.Keys <= 0 || x.Metrics["ntrack_ready"] != 1 {
			t.Errorf("%s: from %+v, with the metrics %v", a.name, x.Start, x.Metrics)
		}
		switch a.name {
		case noAttack, hogAttack:
			if g != (gain{}) {
				t.Errorf("%s: %+v", a.name, g)
			}
		case "slow", "silent", "unread", "streams":
			if g.Opened < 100 || g.Peak < 100 || g.Answered != 0 {
				t.Errorf("%s: %+v, want 100 connections without replies", a.name, g)
			}
		case "idle":
			if g.Peak < 150 || g.Answered < 150 {
				t.Errorf("%s: %+v, want as many connections as fit", a.name, g)
			}
		case "keys", "keys64", "keys48":
			if g.Answered < 100 || g.Requests > 20_000+64*16 || g.Answered+g.Refused > g.Requests {
				t.Errorf("%s: %+v, want announces, and at most 20,000", a.name, g)
			}
		case "lines":
			if g.Answered != 0 || g.Refused+g.Cut < 10 {
				t.Errorf("%s: %+v, want refusals", a.name, g)
			}
		case "pipelines", "looks":
			if g.Answered+g.Refused < 100 {
				t.Errorf("%s: %+v, want replies", a.name, g)
			}
		case "resets", "tls":
			if g.Opened < 10 || g.Answered < 10 || g.Bytes < 1000 {
				t.Errorf("%s: %+v, want answers", a.name, g)
			}
		case "connects":
			if g.Opened < 10 || g.Bytes != 0 {
				t.Errorf("%s: %+v, want connections and no bytes", a.name, g)
			}
		default:
			t.Errorf("%s: this test does not know the attack", a.name)
		}
	}
}

func TestVerdict(t *testing.T) {
	good := row{Server: ntrackServer, Honest: honestResult{Renewals: answers{Asked: 1000, Answered: 1000, P99: 20}}, Peak: figures{Memory: 110 << 20}}
	hog := good
	hog.Attack, hog.Honest.Renewals.P99 = hogAttack, 40
	r := report{Ceiling: 128 << 20, Rows: []row{hog}}
	for want, change := range map[string]func(*row){
		"holds":                                    func(x *row) { x.Honest.Renewals.P99 = 120 },
		"misses: p99 121 ms":                       func(x *row) { x.Honest.Renewals.P99 = 121 },
		"misses: 99.80% answered":                  func(x *row) { x.Honest.Renewals.Answered = 998 },
		"misses: 3 false leaves":                   func(x *row) { x.Honest.FalseLeaves = 3 },
		"misses: 130 MB":                           func(x *row) { x.Peak.Memory = 130 << 20 },
		"misses: the server ended: signal: killed": func(x *row) { x.Died = "signal: killed" },
	} {
		x := good
		change(&x)
		if got := r.verdict(x); got != want {
			t.Errorf("%+v: %s, want %s", x, got, want)
		}
	}
}

// The notes name what a row is short of.
func TestNotes(t *testing.T) {
	r := report{Shrink: 1, Ceiling: 1, Rows: []row{
		{Server: "s", Attack: "keys", Title: "k", Gain: gain{Requests: 1_500_000}},
		{Server: "s", Attack: "slow", Title: "o", Conns: 9000, Gain: gain{Peak: 8000}},
		{Server: "s", Attack: "silent", Title: "i", Conns: 10_000, Gain: gain{Peak: 10_000}},
		{Server: "s", Attack: noAttack, Title: "n", Honest: honestResult{Renewals: answers{P99: 51}}},
		{Server: "t", Attack: noAttack, Title: "n", Honest: honestResult{Renewals: answers{P99: 49}}},
	}}
	want := []string{"s, k: 1.5M requests of 2.0M, because the time was over",
		"s, o: 9000 connections and not 10000, because of the limit on open files",
		"s, o: 8000 connections at a time at most, not 9000",
		"s, n: the machine has other work, so the rows of this server say little"}
	if got := r.notes(); !slices.Equal(got, want) {
		t.Errorf("%q", got)
	}
}

// The reader finds replies in any pieces.
func TestReplyReader(t *testing.T) {
	const text = "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello" +
		"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 2\r\n\r\nno" +
		"HTTP/1.1 204 No Content\r\n\r\n" +
		"HTTP/1.1 200 OK\r\nContent-Length: 20\r\n\r\nd14:failure reason0:" +
		"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\nevent: you\n"
	for size := range len(text) {
		var r replyReader
		var got []int
		var rest []byte
		for piece := range slices.Chunk([]byte(text), size+1) {
			r.read(piece, func(status int, failed bool) bool {
				if failed {
					status = -status
				}
				got = append(got, status)
				return true
			}, func(b []byte) { rest = append(rest, b...) })
		}
		if !slices.Equal(got, []int{200, 503, 204, -200}) || string(rest) != "event: you\n" {
			t.Fatalf("in pieces of %d: %v, %q", size+1, got, rest)
		}
	}
}

// A stream that reports a leave of an honest peer counts it, in any pieces, and no other leave.
func TestFalseLeaves(t *testing.T) {
	const text = "event: you\ndata: 127.1.0.1:4000\n\nevent: peers\ndata: 127.1.0.2:4000\n\nevent: join\ndata: 127.1.0.3:1\n\n" +
		"event: leave\ndata: 127.1.0.3:1\n\nevent: leave\ndata: 127.2.0.3:1\n\n:\n\nevent: leave\ndata: 127.1.0.2:4000\n\n"
	for size := range len(text) {
		h := &honest{}
		s := &honestStream{h: h}
		for piece := range slices.Chunk([]byte(text), size+1) {
			s.lines(piece)
		}
		if h.falseLeaves != 2 || !s.listed {
			t.Fatalf("in pieces of %d: %d leaves, listed: %t", size+1, h.falseLeaves, s.listed)
		}
	}
}

func TestParseSize(t *testing.T) {
	for text, want := range map[string]int64{"512M": 512 << 20, "2G": 2 << 30, "32K": 32 << 10} {
		if got, err := parseSize(text); got != want || err != nil {
			t.Errorf("%s: %d, %v", text, got, err)
		}
	}
	for _, text := range []string{"", "M", "512", "-1M", "5X", "5MB", "0G"} {
		if got, err := parseSize(text); err == nil {
			t.Errorf("%q: %d, want an error", text, got)
		}
	}
}
