//go:build unix

package commands_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
	"unicode"
	"unicode/utf8"

	"ntrack/commands"
)

// FuzzPrinted: whatever a tracker answers, a terminal gets only printable text, JSON is JSON, each note
// is a line that begins with the name of the program, and the exit code is one that the manual has.
func FuzzPrinted(f *testing.F) {
	bodies := []string{
		"", "\x1b[2J", "d14:failure reason4:n\x1bo!8:retry ini-1ee", "d8:intervali60e5:peers6:abcdef15:warning message5:\x1b[2J\xffe",
		`{"key":"k","you":"192.0.2.1:7","interval":60,"ttl":150,"count":3,"peers":["192.0.2.2:1","[fe80::1%\u001b]:5","h\u009b:1"]}`,
		`{"key":"k","you":null,"interval":60,"ttl":150,"count":2,"peers":["192.0.2.2:1","192.0.2.3:2"],"labels":["\u001b[2J\u202e\n","-qB\u009b520-"]}`,
		`{"error":"\u001b]0;x\u0007\u202e"}`, `{"tracks":[{"key":"\u001b[2J","count":1},{"key_escaped":"%1b%ff","count":-1},{"key":"\u202ex\n","count":1e99}]}`,
		"192.0.2.2:1\n\x1b[2J", "d5:filesd3:\x1b[2d8:completei1eeee", "\u009b2J", "event: you\nid: e\ndata: 192.0.2.1:7\n\nevent: peers\ndata: 192.0.2.2:1\n\n",
	}
	heads := []string{"", "HTTP/1.1 200 OK\r\n\r\n", "HTTP/1.1 404 \x1b[2J\r\nContent-Type: text/plain\r\n\r\n", "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n"}
	var answer atomic.Pointer[[]byte]
	addr, answered := answerAll(f, &answer)
	calls := [][]string{
		{"list", "http://ADDR", "k"}, {"list", "http://ADDR/announce", "k"}, {"list", "-t", "http://ADDR"}, {"list", "-t", "http://ADDR/announce"},
		{"announce", "http://ADDR", "k", "--port", "7"}, {"announce", "http://ADDR/announce", "k", "--port", "7"}, {"watch", "http://ADDR", "k"}, {"watch", "http://ADDR", "k", "--once"},
	}
	formats := []string{"table", "json", "text", "--format"}
	for i, body := range bodies {
		for call := range calls {
			f.Add([]byte(body), uint8(1), uint8(call), uint8(i+call))
			f.Add([]byte(body), uint8(i), uint8(call), uint8(i+call+1))
		}
	}
	f.Fuzz(func(t *testing.T, body []byte, head, call, format uint8) {
		if bytes.Contains(bytes.ToLower(body), []byte("ocation")) || len(body) > 1<<14 {
			return // no redirect to other machines
		}
		b := append([]byte(heads[int(head)%len(heads)]), body...)
		answer.Store(&b)
		args := slices.Clone(calls[int(call)%len(calls)])
		for i := range args {
			args[i] = strings.Replace(args[i], "ADDR", addr, 1)
		}
		form := formats[int(format)%len(formats)]
		how := []string{"-o", form}
		if form == "--format" && args[1] != "-t" { // this one lists keys
			how = []string{form, "{{.Endpoint}} {{.Scope}} {{.Label}}"}
		} else if form == "--format" {
			how = nil
		}
		args = slices.Concat([]string{"ntrack"}, args, how, []string{"--timeout", "5s"})
		ctx, cancel := context.WithCancelCause(t.Context())
		defer cancel(nil)
		select {
		case <-answered: // of the call before
		default:
		}
		if args[1] == "watch" { // it tries again until a signal ends it
			go func() {
				select {
				case <-answered:
				case <-ctx.Done():
				}
				cancel(commands.Interrupted{Signal: syscall.SIGINT})
			}()
		}
		began := time.Now()
		var out, notes bytes.Buffer
		code := commands.Main(ctx, args, commands.Streams{In: strings.NewReader(""), Out: &out, Err: &notes})
		what := fmt.Sprintf("%q to %q", b, args[1:])
		if d := time.Since(began); d > 5*time.Second || (code < 0 || code > 5 || code == 2) && code != 130 { // 2 is a wrong line
			t.Fatalf("%s: exit code %d after %v\n%s", what, code, d, notes.String())
		}
		for name, text := range map[string]string{"output": out.String(), "notes": notes.String()} {
			if !utf8.ValidString(text) || strings.ContainsFunc(text, func(r rune) bool { return r != '\n' && !unicode.IsPrint(r) }) {
				t.Fatalf("%s: the %s has %q", what, name, text)
			}
		}
		for line := range strings.Lines(notes.String()) {
			if !strings.HasPrefix(line, "ntrack: ") || len(line) > 1500 {
				t.Fatalf("%s: the note %q", what, line)
			}
		}
		if form == "json" && code == 0 {
			for line := range bytes.Lines(out.Bytes()) {
				if !json.Valid(line) {
					t.Fatalf("%s: %s is not JSON", what, line)
				}
			}
		}
	})
}

// answerAll listens for requests, and sends each the same bytes. answered has a value when a client has
// closed its connection after that.
func answerAll(f *testing.F, answer *atomic.Pointer[[]byte]) (addr string, answered chan struct{}) {
	answered = make(chan struct{}, 1)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		f.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			_ = c.SetDeadline(time.Now().Add(10 * time.Second))
			r := bufio.NewReader(c)
			if _, err := http.ReadRequest(r); err == nil {
				_, _ = c.Write(*answer.Load())
				_ = c.(*net.TCPConn).CloseWrite()
				_, _ = io.Copy(io.Discard, r)
				select {
				case answered <- struct{}{}:
				default:
				}
			}
			_ = c.Close()
		}
	}()
	f.Cleanup(func() { _ = l.Close(); <-done })
	return l.Addr().String(), answered
}
