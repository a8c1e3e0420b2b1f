// Package servertest plays the conformance scenarios of testdata/vectors/tracker against a server:
// the code between a connection and a [tracker.Tracker].
//
// Its one function is [Vectors]. It plays every scenario it finds as a subtest with a tracker of
// its own. The subtest has virtual time, so a scenario of fifteen minutes takes none. Its
// connections come from the addresses that the scenario names. The test fails if there is no
// scenario, or if one does not follow the format exactly. Nothing is left running.
//
// testdata/vectors/README.md describes the format.
package servertest

import (
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

// Vectors plays every scenario in dir, the files named *.json.
//
// serve serves the connections of l with tr and returns once l is closed. It is called once for
// each scenario, in a goroutine inside the synctest bubble. The RemoteAddr of a connection is a
// *net.TCPAddr or a *net.UnixAddr.
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

// play runs the steps of s up to the first that fails, because those after it would prove nothing.
// It must be called inside a synctest bubble.
func (s *scenario) play(serve func(net.Listener, *tracker.Tracker)) error {
	start := time.Now()
	l := newListener()
	served := make(chan struct{})
	go func() {
		defer close(served)
		defer l.Close() // if serve returns early, dial must not wait
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
		time.Sleep(time.Until(start.Add(st.at)))
		if st.Stream != "" {
			if err := playStream(streams, &st, l); err != nil {
				return fmt.Errorf("step %d, stream %q: %w", i+1, st.Stream, err)
			}
			continue
		}
		if c == nil {
			conn, err := l.dial(st.From)
			if err != nil {
				return fmt.Errorf("step %d: %w", i+1, err)
			}
			c = newClient(conn)
		}
		err := c.do(&st)
		if err != nil || i+1 == len(s.Steps) || !s.Steps[i+1].Reuse {
			c.close()
			c = nil
			// The server may still be busy with the closed connection. The next step waits until
			// it is idle, so that no scenario depends on scheduling.
			synctest.Wait()
		}
		if err != nil {
			return fmt.Errorf("step %d, %s from %s: %w", i+1, firstLine(st.Send), st.From, err)
		}
	}
	return nil
}

// playStream opens a stream, or checks what has come on one.
func playStream(streams map[string]*stream, st *step, l *listener) (err error) {
	s := streams[st.Stream]
	if len(st.Send) > 0 {
		conn, err := l.dial(st.From)
		if err != nil {
			return err
		}
		if s, err = openStream(conn, st); s != nil {
			streams[st.Stream] = s
		}
		return err
	}
	if err = s.check(st); err != nil || st.HangUp || st.Closed {
		s.close()
		delete(streams, st.Stream)
		synctest.Wait()
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

// A listener is a net.Listener in memory whose connections can come from any address. Real sockets
// would all come from 127.0.0.1, and virtual time does not wait for them.
type listener struct {
	conns  chan net.Conn
	closed chan struct{}
	once   sync.Once
}

func newListener() *listener {
	return &listener{conns: make(chan net.Conn), closed: make(chan struct{})}
}

// dial makes a connection from that source and returns the client's end.
func (l *listener) dial(from source) (net.Conn, error) {
	near, far := net.Pipe()
	c := conn{far, net.TCPAddrFromAddrPort(from.addr), here}
	if from.unix {
		c.from, c.to = &net.UnixAddr{Name: "@", Net: "unix"}, &net.UnixAddr{Name: "/run/ntrack", Net: "unix"}
	}
	select {
	case l.conns <- c:
		return near, nil
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

func (l *listener) Addr() net.Addr { return here }

// here is the address that the server seems to listen on. It is reserved for documentation (RFC
// 5737).
var here = &net.TCPAddr{IP: net.IPv4(192, 0, 2, 80), Port: 80}

type conn struct {
	net.Conn
	from, to net.Addr
}

func (c conn) RemoteAddr() net.Addr { return c.from }
func (c conn) LocalAddr() net.Addr  { return c.to }
