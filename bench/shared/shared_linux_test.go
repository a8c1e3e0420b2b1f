package main

import (
	"bytes"
	"encoding/json"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"ntrack/bench/measure"
)

// The test binary also runs the children.
func TestMain(m *testing.M) {
	if len(os.Args) > 2 && os.Args[1] == "role" {
		main()
		return
	}
	// rueidis waits a second before it asks for the nodes again, and does not end that with its client.
	goleak.VerifyTestMain(m, goleak.IgnoreAnyFunction("github.com/redis/rueidis.(*call).DelayDo.func1"))
}

// A run measures every section. The test does not look at how large the numbers are.
func TestRun(t *testing.T) {
	const program = "redis-server"
	if _, err := exec.LookPath(program); err != nil {
		if os.Getenv("NTRACK_INTEROP") == "1" {
			t.Fatal(err)
		}
		t.Skip(err)
	}
	var log bytes.Buffer
	b := &bench{engine: program, log: &log, plan: plan{Rounds: 2, Time: 100 * time.Millisecond, Warm: 20 * time.Millisecond, Keys: 20, Peers: 60,
		Callers: 8, Tables: []table{{20, 5}, {2, 200}}, Watchers: 40, Rate: 20, Joining: time.Second, Held: 100, Streams: 20, Settle: 300 * time.Millisecond, Rest: 100 * time.Millisecond}}
	dir := t.TempDir()
	jsonFile, mdFile := filepath.Join(dir, "json"), filepath.Join(dir, "md")
	begin, end := measure.Marks(markOf(program))
	if err := os.WriteFile(mdFile, []byte("above\n"+begin+"old\n"+end+"below\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	if err := b.run(&out, jsonFile, mdFile); err != nil {
		t.Fatal(err)
	}
	t.Logf("%s%s", out.Bytes(), log.Bytes())
	md, err := os.ReadFile(mdFile)
	if err != nil || !strings.HasPrefix(string(md), "above\n"+begin) || strings.Contains(string(md), "old\n") ||
		!strings.Contains(string(md), out.String()) || !strings.HasSuffix(string(md), end+"below\n") {
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
	if len(r.Announces) != 5 || len(r.Memory) != 2 || r.Joins == nil || len(r.Holds) != 2 {
		t.Fatalf("not everything was measured: %s", text)
	}
	for _, a := range r.Announces {
		shared := a.Name != memoryName && a.Name != memoryStoreName
		for _, round := range a.Rounds {
			if round.Process <= 0 || round.PerSecond <= 0 || round.P50 <= 0 || round.P99 < round.P50 {
				t.Errorf("%s: %+v", a.Name, round)
			}
			if shared && (round.Engine <= 0 || round.In <= 0 || round.Out <= 0 || round.Calls["zadd"] <= 0) {
				t.Errorf("%s in the database: %+v", a.Name, round)
			}
		}
		if len(a.Rounds) != b.Rounds {
			t.Errorf("%s has %d rounds", a.Name, len(a.Rounds))
		}
	}
	for _, m := range r.Memory {
		if m.Join <= 0 || m.Renew <= 0 {
			t.Errorf("%+v", m)
		}
	}
	for i, s := range r.Joins.Sides { // at least 50 ms later if nothing else happens, but a change of the key may be sent with an earlier one
		if s.Events != r.Joins.Expected || s.P50 <= 0 || s.P99 < s.P50 {
			t.Errorf("tracker %d: %+v of %+v", i, s, r.Joins)
		}
	}
	for _, h := range r.Holds {
		if h.Live != h.Held || h.Conns <= 0 { // the memory of so few is lost among that of connections
			t.Errorf("%+v", h)
		}
	}
}

// A report that takes a wrong reply for a good one would be worthless.
func TestWrongReply(t *testing.T) {
	for _, test := range []struct {
		reply string
		want  string
	}{
		{"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n", "503"},
		{"HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n", "x"},
		{"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nshort", "EOF"},
	} {
		c := replyWith(t, test.reply)
		if _, err := c.ask(); err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%q: %v", test.reply, err)
		}
	}
	c := replyWith(t, "HTTP/1.1 200 OK\r\nDate: now\r\nContent-Length: 2\r\n\r\nok")
	if body, err := c.ask(); err != nil || string(body) != "ok" {
		t.Errorf("%q, %v", body, err)
	}
}

// replyWith returns a connection to a server that answers anything with reply.
func replyWith(t *testing.T, reply string) *conn {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	go func() {
		c, err := l.Accept()
		if err != nil {
			return
		}
		defer c.Close()
		_, _ = c.Read(make([]byte, 1000))
		_, _ = io.WriteString(c, reply)
	}()
	c, err := dial(l.Addr().(*net.TCPAddr).Port)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	c.request = []byte("GET / HTTP/1.1\r\n\r\n")
	return c
}

func TestJoiners(t *testing.T) {
	for _, n := range []int{0, 1, 255, 256, 70_000} {
		if got := joinNumber(joiner(n)); got != n {
			t.Errorf("join %d counts as %d", n, got)
		}
	}
	if n := joinNumber(endpointOf(3, 4)); n != -1 {
		t.Errorf("a peer counts as join %d", n)
	}
}
