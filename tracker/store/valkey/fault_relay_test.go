package valkey_test

import (
	"bufio"
	"bytes"
	"io"
	"net"
	"net/url"
	"sync"
	"testing"
	"time"

	"ntrack/tracker/store/valkey/valkeytest"
)

// A relay is between a tracker and its server, which must be a single one. It passes on everything,
// except that fate decides over each message of a channel.
type relay struct {
	net.Listener
	target string
	fate   func(n int) (copies int, delay time.Duration) // of the n-th message, from 0

	mu       sync.Mutex
	messages int
	conns    map[net.Conn]bool
	stopped  bool
	wait     sync.WaitGroup
}

// startRelay starts a relay from a listener to the server of a URL, and returns the URL of the relay.
// The end of the test stops it.
func startRelay(t *testing.T, listener net.Listener, to string, fate func(n int) (copies int, delay time.Duration)) (r *relay, at string) {
	t.Helper()
	u, err := url.Parse(to)
	must(t, err)
	r = &relay{Listener: listener, target: u.Host, fate: fate, conns: make(map[net.Conn]bool)}
	u.Host = listener.Addr().String()
	r.wait.Go(r.accept)
	t.Cleanup(func() {
		_ = r.Close()
		r.mu.Lock()
		r.stopped = true
		r.mu.Unlock()
		r.cut()
		r.wait.Wait()
	})
	return r, u.String()
}

func (r *relay) accept() {
	for {
		c, err := r.Accept()
		if err != nil {
			return
		}
		r.wait.Go(func() { r.serve(c) })
	}
}

// seen returns how many messages have come by.
func (r *relay) seen() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.messages
}

// cut resets all connections.
func (r *relay) cut() {
	r.mu.Lock()
	defer r.mu.Unlock()
	for c := range r.conns {
		_ = c.Close()
	}
}

// keep remembers a connection for cut. It returns false if the relay has stopped.
func (r *relay) keep(c net.Conn) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.stopped {
		r.conns[c] = true
	}
	return !r.stopped
}

func (r *relay) serve(client net.Conn) {
	defer client.Close()
	server, err := net.Dial("tcp", r.target)
	if err != nil {
		return
	}
	defer server.Close()
	if !r.keep(client) || !r.keep(server) {
		return
	}
	r.wait.Go(func() {
		_, _ = io.Copy(server, client)
		_ = server.Close()
	})
	var writing sync.Mutex
	write := func(frame []byte) error {
		writing.Lock()
		defer writing.Unlock()
		_, err := client.Write(frame)
		return err
	}
	for in := bufio.NewReader(server); ; {
		frame, err := valkeytest.ReadFrame(in, nil)
		if err != nil {
			return
		}
		copies, delay := 1, time.Duration(0)
		if frame[0] == '>' && bytes.Contains(frame, []byte("\r\nsmessage\r\n")) {
			r.mu.Lock()
			n := r.messages
			r.messages++
			r.mu.Unlock()
			copies, delay = r.fate(n)
		}
		for range copies {
			if delay > 0 {
				time.AfterFunc(delay, func() { _ = write(frame) })
			} else if write(frame) != nil {
				return
			}
		}
	}
}
