package commands

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/urfave/cli/v2"

	"ntrack/announce/wire"
	"ntrack/tracker/store"
	"ntrack/tracker/store/memory"
)

// A brokenStore panics if a key is announced whose name begins with private-panic.
type brokenStore struct{ *memory.Store }

func (s brokenStore) Announce(ctx context.Context, key []byte, peer wire.Peer, ttl func(store.Size) time.Duration, want store.Want, dst []wire.Peer) ([]wire.Peer, store.Result, error) {
	if bytes.HasPrefix(key, []byte("private-panic")) {
		panic("the store is broken")
	}
	return s.Store.Announce(ctx, key, peer, ttl, want, dst)
}

// syncBuffer is a buffer that goroutines share.
type syncBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *syncBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *syncBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

// Everything that serve writes at the default level has no key, no token and no address of a client,
// even about requests that are refused, damaged or crash. At the level debug it has addresses.
func TestLogPrivacy(t *testing.T) {
	for _, format := range logFormats {
		for _, level := range []string{"", "debug"} {
			t.Run(format+level, func(t *testing.T) {
				args := []string{"--log-format", format}
				if level != "" {
					args = append(args, "--log-level", level)
				}
				said, private := serveBadClients(t, args)
				// These show that the log is about the bad requests.
				for _, about := range []string{"the store is broken", "which is the limit", "serve_privacy_test.go"} {
					if !strings.Contains(said, about) {
						t.Errorf("the log has nothing about %q:\n%s", about, said)
					}
				}
				shows := false
				for what, text := range private {
					if !strings.Contains(said, text) {
						continue
					}
					if shows = what == "the address of a connection"; level == "" || !shows {
						t.Errorf("the log has %s, %s:\n%s", what, text, said)
					}
				}
				if level == "debug" && !shows {
					t.Errorf("the log for debugging has no address:\n%s", said)
				}
			})
		}
	}
}

// serveBadClients runs serve, sends it all kinds of requests, and ends it. It returns everything that
// serve writes, and the texts in the requests that are private.
func serveBadClients(t *testing.T, args []string) (said string, private map[string]string) {
	t.Helper()
	dir := t.TempDir()
	tokens, addrs := filepath.Join(dir, "token"), filepath.Join(dir, "addr")
	if err := os.WriteFile(tokens, []byte("private-token\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	var out syncBuffer
	s := Streams{In: strings.NewReader(""), Out: &out, Err: &out}
	app := newApp(s)
	serve := app.Command("serve")
	ready := make(chan struct{})
	serve.Action = func(c *cli.Context) error {
		var o serveOptions
		s, err := o.buildLog(c, s)
		if err != nil {
			return err
		}
		if err := o.build(c, s); err != nil {
			return err
		}
		o.tracker.Store = brokenStore{o.tracker.Store.(*memory.Store)}
		return o.run(c.Context, s)
	}
	words, l, err := arrangeArgs(app, append([]string{"ntrack", "serve", "--listen", "127.0.0.1:0", "--addr-file", addrs, "--max-conns", "3",
		"--max-peers-per-key", "1", "--token-file", tokens, "--proxy", "127.0.0.1"}, args...))
	if err != nil {
		t.Fatal(err)
	}
	app.Metadata = map[string]any{lineKey: l}
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		defer close(ready)
		if err := app.RunContext(ctx, words); err != nil {
			t.Error(err)
		}
	}()
	defer func() {
		cancel()
		<-ready
		said = out.String()
	}()
	var addr string
	for addr == "" {
		select {
		case <-ready:
			t.Fatal(out.String())
		case <-time.After(5 * time.Millisecond):
		}
		b, _ := os.ReadFile(addrs)
		addr = strings.TrimSpace(string(b))
	}

	private = map[string]string{
		"a key": "private-", "a key in hex": fmt.Sprintf("%x", "private-"), "the address of a peer": "203.0.113.77", "its port": "45678",
	}
	const head = " HTTP/1.1\r\nHost: x\r\nX-Forwarded-For: 203.0.113.77\r\n"
	const auth = "Authorization: Bearer private-token\r\n"
	for _, request := range []string{
		"GET /ntrk/private-key?port=45678" + head + auth + "\r\n",
		"GET /ntrk/private-key?port=45679" + head + auth + "\r\n",
		"GET /ntrk/private-key?port=45678" + head + "Authorization: Bearer private-guess\r\n\r\n",
		"GET /announce?info_hash=private-hash-of-20-b&peer_id=private-peer-of-20-b&port=45678" + head + auth + "\r\n",
		"GET /private-token/announce?info_hash=private-hash-of-20-b&port=45678" + head + "\r\n",
		"GET /private-guess/announce?info_hash=private-hash-of-20-b&port=45678" + head + "\r\n",
		"GET /ntrk/private-key?port=45678 HTTP/7\r\n\r\n",
		"private-garbage 203.0.113.77\r\n\r\n",
		"\x16\x03\x01\x02\x00\x01\x00\x01private-hello",
		"POST /ntrk/private-key" + head + "Content-Length: -1\r\n\r\n",
		"GET /" + strings.Repeat("private-long", 5000) + head + "\r\n",
		"GET /ntrk/private-panic?port=45678" + head + auth + "\r\n",
		"GET /ntrk/private-panic?port=45678&x=" + strings.Repeat("x", 3000) + head + auth + "Expect: 100-continue\r\n\r\n",
	} {
		c, err := net.Dial("tcp", addr)
		if err != nil {
			t.Fatal(err)
		}
		if strings.Contains(request, "private-panic") {
			private["the address of a connection"] = c.LocalAddr().String()
		}
		_, _ = io.WriteString(c, request)
		_ = c.(*net.TCPConn).CloseWrite()
		_, _ = io.Copy(io.Discard, c)
		_ = c.Close()
	}
	// More connections than the limit: some of them are waiting for their request.
	var open []net.Conn
	for range 8 {
		c, err := net.Dial("tcp", addr)
		if err != nil {
			t.Fatal(err)
		}
		open = append(open, c)
		_, _ = io.WriteString(c, "GET /ntrk/private-key")
	}
	for _, c := range open[4:] { // over the limit, these are answered or closed
		_ = c.(*net.TCPConn).CloseWrite()
		_, _ = io.Copy(io.Discard, c)
	}
	for _, c := range open {
		_ = c.Close()
	}
	return "", private
}
