// Package servertest plays the conformance scenarios of testdata/vectors/tracker against a door: the
// code between a connection and a [tracker.Tracker].
//
// Enter by [Vectors]. It promises that every scenario it finds is played, each as a subtest with
// its own tracker, in its own bubble of virtual time (a scenario of fifteen minutes takes none),
// over connections that come from wherever the scenario says; that finding no scenario, or one
// that does not follow the format word by word, is a failure; and that nothing is left running.
//
// The format is described in testdata/vectors/README.md.
package servertest

import (
	"fmt"
	"net"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"ntrack/tracker"
)

// Vectors plays every scenario in dir, the files named *.json.
//
// serve answers the connections of l with tr and returns once l is closed. It is called once a
// scenario, in a goroutine inside the bubble. The connections' RemoteAddr is a *net.TCPAddr, or a
// *net.UnixAddr.
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

// play runs s from its first step to its last, or to the first that goes wrong: what follows a
// wrong step says nothing. It must be called inside a synctest bubble.
func (s *scenario) play(serve func(net.Listener, *tracker.Tracker)) error {
	start := time.Now()
	l := newListener()
	served := make(chan struct{})
	go func() {
		defer close(served)
		defer l.Close() // a door that gives up must not leave us dialling
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
			if err := follow(streams, &st, l); err != nil {
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
			// The door may still be busy with the connection that went away; the next step
			// must find it at rest, or scenarios would depend on scheduling.
			synctest.Wait()
		}
		if err != nil {
			return fmt.Errorf("step %d, %s from %s: %w", i+1, firstLine(st.Send), st.From, err)
		}
	}
	return nil
}

// follow opens a stream, or looks what has come on it.
func follow(streams map[string]*stream, st *step, l *listener) (err error) {
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
