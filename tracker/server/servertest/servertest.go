// Package servertest plays the conformance scenarios of testdata/vectors/tracker against a server.
// A server is the code between a connection and a [tracker.Tracker].
//
// Its one function is [Vectors]. It plays every scenario in a subtest with a tracker of its own. A
// subtest has virtual time, so even a scenario of fifteen minutes ends at once. Connections come
// from the addresses in the scenario. The test fails if there is no scenario, or if a file does not
// follow the format exactly. Nothing is left running.
//
// testdata/vectors/README.md describes the format.
package servertest

import (
	"errors"
	"fmt"
	"net"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"ntrack/tracker"
)

// Vectors plays every scenario in dir. A scenario is a file named *.json.
//
// Vectors calls serve once for each scenario, in a goroutine inside the scenario's synctest bubble.
// serve must serve the connections of l with tr, and return when l is closed. The RemoteAddr of a
// connection is a *net.TCPAddr or a *net.UnixAddr.
func Vectors(t *testing.T, dir string, serve func(l net.Listener, tr *tracker.Tracker)) {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(dir, "*.json"))
	if err != nil {
		t.Fatal(err)
	}
	if len(files) == 0 {
		t.Fatalf("no scenario (*.json) in %s", dir)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".json"), func(t *testing.T) {
			s, err := load(file)
			if err != nil {
				t.Fatal(err)
			}
			synctest.Test(t, func(t *testing.T) {
				if err := s.play(serve); err != nil {
					t.Errorf("%s\n%v", s.About, err)
				}
			})
		})
	}
}

// play runs the steps of s up to the first one that fails: later steps would prove nothing then. It
// must be called inside a synctest bubble.
func (s *scenario) play(serve func(net.Listener, *tracker.Tracker)) error {
	start := time.Now()
	l := newListener()
	served := make(chan struct{})
	go func() {
		defer close(served)
		defer l.Close() // so that dial does not wait for a server that has returned
		serve(l, s.Tracker.tracker())
	}()
	defer func() {
		l.Close()
		<-served
	}()

	streams := make(map[string]*stream)
	defer func() {
		for _, open := range streams {
			open.close()
		}
	}()
	var c *client
	for i, st := range s.Steps {
		time.Sleep(time.Until(start.Add(st.start)))
		if st.Stream != "" {
			if err := playStream(streams, &st, l); err != nil {
				return fmt.Errorf("step %d, stream %q: %w", i+1, st.Stream, err)
			}
			continue
		}
		reused := i+1 < len(s.Steps) && s.Steps[i+1].Reuse
		for n, send := range st.sends {
			if c == nil {
				conn, err := l.dial(st.From)
				if err != nil {
					return fmt.Errorf("step %d: %w", i+1, err)
				}
				c = newClient(conn)
			}
			ended, err := c.do(&st, send)
			if more := n+1 < len(st.sends); err != nil || more && ended || !more && !reused {
				c.close()
				c = nil
				// The server may still be busy with the closed connection. It becomes idle before the
				// next step, so that no scenario depends on scheduling.
				synctest.Wait()
			}
			if err != nil {
				return fmt.Errorf("step %d, %s from %s: %w", i+1, firstLine(send), st.From, err)
			}
		}
	}
	return nil
}

// playStream opens the stream of st if st has a request, and checks what the server has sent on it.
func playStream(streams map[string]*stream, st *step, l *listener) (err error) {
	s := streams[st.Stream]
	if len(st.Send) > 0 {
		conn, err := l.dial(st.From)
		if err != nil {
			return err
		}
		if s, err = openStream(conn, st); err != nil {
			return err
		}
		streams[st.Stream] = s
	}
	if st.Body != nil || st.HangUp {
		err = s.check(st)
	}
	switch {
	case err != nil, st.HangUp, st.Closed:
		s.close()
		delete(streams, st.Stream)
		synctest.Wait()
	case st.HalfClose:
		err = s.conn.CloseWrite()
	}
	return err
}

func firstLine(send latin1) string {
	line, _, _ := strings.Cut(string(send), "\r\n")
	if len(line) > 200 {
		line = line[:200] + "..."
	}
	return fmt.Sprintf("%q", line)
}

// A listener is a net.Listener in memory. Its connections can come from any address, and virtual
// time works with them. Real sockets would all come from 127.0.0.1, and would need real time.
type listener struct {
	conns  chan net.Conn
	closed chan struct{}
	once   sync.Once
}

func newListener() *listener {
	return &listener{conns: make(chan net.Conn), closed: make(chan struct{})}
}

// dial makes a connection from an origin and returns the client's end.
func (l *listener) dial(from origin) (*conn, error) {
	remote, local := net.Addr(net.TCPAddrFromAddrPort(from.addr)), net.Addr(serverAddr)
	if from.unix {
		remote, local = &net.UnixAddr{Name: "@", Net: "unix"}, &net.UnixAddr{Name: "/run/ntrack", Net: "unix"}
	}
	clientOut, serverIn := net.Pipe()
	serverOut, clientIn := net.Pipe()
	select {
	case l.conns <- &conn{Conn: serverIn, out: serverOut, remote: remote, local: local}:
		return &conn{Conn: clientIn, out: clientOut, remote: local, local: remote}, nil
	case <-l.closed:
		return nil, net.ErrClosed
	}
}

func (l *listener) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.closed:
		return nil, net.ErrClosed
	}
}

func (l *listener) Close() error {
	l.once.Do(func() { close(l.closed) })
	return nil
}

func (l *listener) Addr() net.Addr { return serverAddr }

// serverAddr is the address of every listener. It is reserved for documentation (RFC 5737).
var serverAddr = &net.TCPAddr{IP: net.IPv4(192, 0, 2, 80), Port: 80}

// A conn is one end of a connection. Either of its two pipes can be closed alone.
type conn struct {
	net.Conn          // the pipe to read from
	out      net.Conn // the pipe to write to

	remote, local net.Addr
}

func (c *conn) Write(b []byte) (int, error) { return c.out.Write(b) }
func (c *conn) CloseWrite() error           { return c.out.Close() }
func (c *conn) Close() error                { return errors.Join(c.out.Close(), c.Conn.Close()) }
func (c *conn) RemoteAddr() net.Addr        { return c.remote }
func (c *conn) LocalAddr() net.Addr         { return c.local }

func (c *conn) SetWriteDeadline(t time.Time) error { return c.out.SetWriteDeadline(t) }
func (c *conn) SetDeadline(t time.Time) error {
	return errors.Join(c.SetReadDeadline(t), c.SetWriteDeadline(t))
}
