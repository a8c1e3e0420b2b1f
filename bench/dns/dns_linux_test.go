package main

import (
	"bytes"
	"encoding/json"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/net/dns/dnsmessage"

	"ntrack/bench/measure"
)

// The test binary also runs the servers.
func TestMain(m *testing.M) {
	if len(os.Args) > 2 && os.Args[1] == "role" {
		main()
		return
	}
	goleak.VerifyTestMain(m)
}

// A run measures every section. The test does not look at how large the numbers are.
func TestRun(t *testing.T) {
	b := &bench{plan: plan{Rounds: 2, Time: 300 * time.Millisecond, Warm: 100 * time.Millisecond, Flight: 8, Small: 20, Large: 10, Announce: 200, Queries: []int{500, 0}}}
	dir := t.TempDir()
	jsonFile, mdFile := filepath.Join(dir, "json"), filepath.Join(dir, "md")
	begin, end := measure.Marks(mark)
	if err := os.WriteFile(mdFile, []byte("above\n"+begin+"old\n"+end+"below\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	if err := b.run(&out, jsonFile, mdFile); err != nil {
		t.Fatal(err)
	}
	t.Logf("%s", out.Bytes())
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
	if len(r.Answers) != 4 || len(r.Beside) != 3 {
		t.Fatalf("not everything was measured: %s", text)
	}
	for _, a := range r.Answers {
		for _, round := range a.Rounds {
			if round.Tracker.Each <= 0 || round.Tracker.P50 <= 0 || (a.Bytes > 0) != (round.Constant.Each > 0) {
				t.Errorf("%s: %+v", a.Name, round)
			}
		}
	}
	for _, s := range r.Beside {
		for _, round := range s.Rounds {
			if round.Announces <= 0 || round.P99 < round.P50 || round.Most <= 0 || (s.Rate >= 0) != (round.Answers > 0) {
				t.Errorf("beside %d: %+v", s.Rate, round)
			}
		}
	}
}

// A report that takes a wrong reply for a good one would be worthless.
func TestWrongReplies(t *testing.T) {
	right := func(q *query) dnsmessage.Message {
		m := dnsmessage.Message{Header: dnsmessage.Header{Response: true}}
		for i := range q.most {
			m.Answers = append(m.Answers, dnsmessage.Resource{Header: dnsmessage.ResourceHeader{Name: soaName, Class: dnsmessage.ClassINET},
				Body: &dnsmessage.AResource{A: [4]byte{11, 0, 0, byte(i)}}})
		}
		return m
	}
	for name, spoil := range map[string]func(m *dnsmessage.Message){
		"the right one":  func(*dnsmessage.Message) {},
		"a code":         func(m *dnsmessage.Message) { m.RCode = dnsmessage.RCodeServerFailure },
		"too few":        func(m *dnsmessage.Message) { m.Answers = m.Answers[1:] },
		"truncated":      func(m *dnsmessage.Message) { m.Answers, m.Truncated = m.Answers[1:], true },
		"one twice":      func(m *dnsmessage.Message) { m.Answers[0] = m.Answers[1] },
		"not a peer":     func(m *dnsmessage.Message) { m.Answers[0].Body = &dnsmessage.AResource{A: [4]byte{12, 0, 0, 1}} },
		"another record": func(m *dnsmessage.Message) { m.Answers[0].Body = &dnsmessage.NSResource{NS: nsName} },
	} {
		q := casesOf(10, 10)[0]
		m := right(q)
		spoil(&m)
		reply, err := m.Pack()
		if err != nil {
			t.Fatal(err)
		}
		server, err := net.ListenUDP("udp", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
		if err != nil {
			t.Fatal(err)
		}
		asked := make(chan error, 1)
		go func() {
			b := make([]byte, 512)
			_, from, err := server.ReadFromUDPAddrPort(b)
			if err == nil {
				_, err = server.WriteToUDPAddrPort(reply, from)
			}
			asked <- err
		}()
		err = q.probe(server.LocalAddr().(*net.UDPAddr).Port)
		if right := name == "the right one"; (err == nil) != right {
			t.Errorf("%s: %v", name, err)
		}
		if err := <-asked; err != nil {
			t.Error(err)
		}
		_ = server.Close()
	}
	for _, tt := range []struct {
		reply string
		whole bool
		fault bool
	}{
		{reply: "HTTP/1.1 200 OK\r\nContent-Le"},
		{reply: "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nshort"},
		{reply: "HTTP/1.1 503 no\r\nContent-Length: 0\r\n\r\n", fault: true},
		{reply: "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}", fault: true},
		{reply: "HTTP/1.1 200 OK\r\nContent-Length: 357\r\n\r\n" + strings.Repeat(`"127.0.`, wantPeers+1), whole: true},
	} {
		if whole, err := checkAnnounce(&client{reply: []byte(tt.reply)}); whole != tt.whole || (err != nil) != tt.fault {
			t.Errorf("%q: %v, %v", tt.reply, whole, err)
		}
	}
}
