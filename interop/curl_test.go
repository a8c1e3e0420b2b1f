//go:build linux

package interop_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
)

// curl uses curl as a complete client of the native interface.
func curl(t *testing.T, bin string) {
	const key = "lobby%2F1"
	addr := serve(t, bin)
	base := "http://" + addr + "/ntrk/" + key
	// ask returns the status and the sorted lines of the body.
	ask := func(args ...string) (status string, lines []string) {
		t.Helper()
		stdout, stderr, code := run(t, "curl", append([]string{"-sS", "-w", "%{http_code}"}, args...)...)
		if code != 0 {
			t.Fatalf("curl %q: exit code %d\n%s", args, code, stderr)
		}
		body, status := stdout[:len(stdout)-3], stdout[len(stdout)-3:]
		lines = strings.SplitAfter(body, "\n")
		if last := len(lines) - 1; lines[last] == "" {
			lines = lines[:last]
		}
		slices.Sort(lines)
		return status, lines
	}
	var here []string // the peers that are listed
	for _, tt := range []struct {
		joins, leaves string
		args          []string
		status        string
	}{
		{args: []string{base + "?port=0&format=text"}},
		{args: []string{base + "?port=4000&format=text"}, joins: "127.0.0.1:4000\n"},
		{args: []string{base + "?port=4001", "-H", "Accept: text/plain"}, joins: "127.0.0.1:4001\n"},
		{args: []string{base + "?port=4000&format=text"}, joins: "127.0.0.1:4000\n"}, // renews
		{args: []string{base + "?port=4002&format=text", "-d", "the body is ignored"}, joins: "127.0.0.1:4002\n"},
		{args: []string{base + "?port=4003&format=text", "--http1.0"}, joins: "127.0.0.1:4003\n"},
		{args: []string{base + "?port=4004&format=text", "-H", "Origin: http://example.com"}}, // a web page cannot join
		{args: []string{base + "?port=4001", "-X", "DELETE"}, leaves: "127.0.0.1:4001\n", status: "204"},
		{args: []string{base + "?port=4001", "-X", "DELETE", "--http1.0"}, leaves: "127.0.0.1:4001\n", status: "204"}, // was not listed
		{args: []string{base + "?port=0&format=text", "--http1.0"}},
	} {
		here = slices.DeleteFunc(here, func(s string) bool { return s == tt.joins || s == tt.leaves })
		want, status := here, "200"
		if tt.status != "" {
			want, status = nil, tt.status
		}
		gotStatus, got := ask(tt.args...)
		if gotStatus != status || !slices.Equal(got, want) {
			t.Errorf("curl %q: status %s, got %q; want %s, %q", tt.args, gotStatus, got, status, want)
		}
		if tt.joins != "" {
			here = append(here, tt.joins)
			slices.Sort(here)
		}
	}

	// Without a port, the peer is listed with the port it connects from, which curl can choose.
	port := freePort(t)
	ask(base+"?format=text", "--local-port", port)
	expect(t, endpoints("4000", "4002", "4003", port), bin, "list", addr, "lobby/1", "-q")

	// With a stream, curl is a member until it ends in any way, and the stream reports other peers.
	stream := func(port string) *program {
		return start(t, t.TempDir(), "curl", "-sSN", "-H", "Accept: text/event-stream", "http://"+addr+"/ntrk/stream?port="+port)
	}
	reports := func(p *program, what string) {
		t.Helper()
		eventually(t, func() error {
			if got := p.output(t, "stdout"); !strings.Contains(got, what) {
				return fmt.Errorf("no %q in\n%s", what, got)
			}
			return nil
		}, p)
	}
	watcher := stream("4000")
	reports(watcher, "event: peers\n")
	member := stream("4001")
	reports(watcher, "data: 127.0.0.1:4001\n")
	reports(member, "data: 127.0.0.1:4000\n")
	expect(t, endpoints("4000", "4001"), bin, "list", addr, "stream", "-q")
	must(t, member.cmd.Process.Kill())
	reports(watcher, "event: leave\n")
	expect(t, endpoints("4000"), bin, "list", addr, "stream", "-q")
}
