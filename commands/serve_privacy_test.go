package commands

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"io"
	"net"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
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
// even about requests that are refused, damaged or crash, over TLS and with a PROXY header, too. At
// the level debug it has addresses.
func TestLogPrivacy(t *testing.T) {
	for _, format := range logFormats {
		for _, level := range []string{"", "debug", "debug by the PROXY protocol", " by the PROXY protocol"} {
			t.Run(format+level, func(t *testing.T) {
				args := []string{"--log-format", format}
				level, by, _ := strings.Cut(level, " ")
				if level != "" {
					args = append(args, "--log-level", level)
				}
				said, private := serveBadClients(t, args, by != "")
				// These show that the log is about the bad requests.
				for _, about := range []string{"the store is broken", "which is the limit", "serve_privacy_test.go"} {
					if !strings.Contains(said, about) {
						t.Errorf("the log has nothing about %q:\n%s", about, said)
					}
				}
				shows := false
				for what, text := range private {
					searched := said
					if what == "its port" { // the numbers in the stack of a panic may contain these digits
						searched = regexp.MustCompile(`\b0x[0-9a-f]+`).ReplaceAllString(said, "")
					}
					if !strings.Contains(searched, text) {
						continue
					}
					isAddress := strings.HasPrefix(what, "the address of a connection")
					shows = shows || isAddress
					if level == "" || !isAddress {
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
// serve writes, and the texts in the requests that are private. If proxied is set, the requests come
// from a proxy by the PROXY protocol.
func serveBadClients(t *testing.T, args []string, proxied bool) (said string, private map[string]string) {
	t.Helper()
	dir := t.TempDir()
	tokens, addrs := filepath.Join(dir, "token"), filepath.Join(dir, "addr")
	if err := os.WriteFile(tokens, []byte("private-token\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	certFile, keyFile := filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	std := httptest.NewTLSServer(nil) // for its certificate
	std.Close()
	key, err := x509.MarshalPKCS8PrivateKey(std.TLS.Certificates[0].PrivateKey)
	if err != nil {
		t.Fatal(err)
	}
	for file, block := range map[string]*pem.Block{
		certFile: {Type: "CERTIFICATE", Bytes: std.Certificate().Raw}, keyFile: {Type: "PRIVATE KEY", Bytes: key},
	} {
		if err := os.WriteFile(file, pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if proxied {
		args = append(args, "--proxy-protocol")
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
	words, l, err := arrangeArgs(app, append([]string{"ntrack", "serve", "--listen", "127.0.0.1:0", "--addr-file", addrs, "--max-conns", "8",
		"--token-file", tokens, "--proxy", "127.0.0.1",
		"--listen-tls", "127.0.0.1:0", "--tls-cert", certFile, "--tls-key", keyFile}, args...))
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
	addr, secureAddr, _ := strings.Cut(addr, "\n")

	private = map[string]string{
		"a key": "private-", "a key in hex": fmt.Sprintf("%x", "private-"), "the address of a peer": "203.0.113.77", "its port": "45678",
	}
	connections := 0
	// dial connects, and notes the address that the tracker knows for the connection.
	dial := func(addr string) net.Conn {
		c, err := net.Dial("tcp", addr)
		if err != nil {
			t.Fatal(err)
		}
		connections++
		address := c.LocalAddr().String()
		if proxied {
			address = fmt.Sprintf("203.0.113.88:%d", 40000+connections)
			_, _ = fmt.Fprintf(c, "PROXY TCP4 203.0.113.88 127.0.0.1 %d 6969\r\n", 40000+connections)
		}
		private[fmt.Sprint("the address of a connection, ", connections)] = address
		return c
	}
	send := func(c net.Conn, request string) {
		_, _ = io.WriteString(c, request)
		_ = c.(interface{ CloseWrite() error }).CloseWrite()
		_, _ = io.Copy(io.Discard, c)
		_ = c.Close()
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
		send(dial(addr), request)
		send(dial(secureAddr), request) // a handshake that fails
		c := tls.Client(dial(secureAddr), &tls.Config{InsecureSkipVerify: true, ServerName: "private-name.example"})
		if err := c.Handshake(); err != nil {
			t.Fatal(err)
		}
		send(c, request)
	}
	for _, config := range []*tls.Config{
		{ServerName: "private-name.example"}, // it does not trust the certificate
		{InsecureSkipVerify: true, MaxVersion: tls.VersionTLS11},
		{InsecureSkipVerify: true, NextProtos: []string{"private-protocol"}},
	} {
		c := tls.Client(dial(secureAddr), config)
		if c.Handshake() == nil {
			t.Error("a handshake did not fail")
		}
		_ = c.Close()
	}
	if proxied {
		for _, header := range []string{
			"GET /ntrk/private-key?port=45678" + head + "\r\n",
			"PROXY TCP4 203.0.113.77 private-address 45678 6969\r\n",
			"PROXY " + strings.Repeat("private-long", 20),
			"\r\n\r\n\x00\r\nQUIT\n\x21\x11\x00\x02private-header",
			"\r\n\r\n\x00\r\nQUIT\n\x99\x11\xff\xffprivate-header",
		} {
			for _, at := range []string{addr, secureAddr} {
				c, err := net.Dial("tcp", at)
				if err != nil {
					t.Fatal(err)
				}
				private[fmt.Sprintf("the address of a connection, %q at %s", header, at)] = c.LocalAddr().String()
				send(c, header)
			}
		}
	}
	// More connections than the limit: some of them are waiting for their request.
	var open []net.Conn
	for range 16 {
		c := dial(addr)
		open = append(open, c)
		_, _ = io.WriteString(c, "GET /ntrk/private-key")
	}
	for _, c := range open[8:] { // over the limit, these are answered or closed
		_ = c.(*net.TCPConn).CloseWrite()
		_, _ = io.Copy(io.Discard, c)
	}
	for _, c := range open {
		_ = c.Close()
	}
	return "", private
}
