package servertest

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"sync"
	"testing/synctest"
	"time"
)

// stream is a connection on which the door goes on sending.
type stream struct {
	conn net.Conn
	done chan struct{} // closed when the door has ended it, or we have

	mu  sync.Mutex
	got []byte // since the last step that looked
	err error  // io.EOF when the door ended it
}

// openStream sends what st says and leaves its connection open.
func openStream(conn net.Conn, st *step) (*stream, error) {
	c := newClient(conn)
	resp, err := c.send(st)
	if err == nil && resp.StatusCode != st.Status {
		err = fmt.Errorf("status\n     got %d\nexpected %d", resp.StatusCode, st.Status)
	}
	if err == nil && (len(resp.TransferEncoding) > 0 || resp.ContentLength >= 0 || !resp.Close) {
		err = fmt.Errorf("the stream does not say that it ends with its connection: %q, %v", resp.TransferEncoding, resp.Header)
	}
	if err == nil {
		err = headers(resp.Header, st)
	}
	if err != nil {
		c.close()
		return nil, err
	}
	<-c.wrote
	_ = conn.SetDeadline(time.Time{})
	s := &stream{conn: conn, done: make(chan struct{})}
	go s.collect(c.r, resp)
	return s, s.check(st)
}

func (s *stream) collect(r *bufio.Reader, resp *http.Response) {
	defer close(s.done)
	defer resp.Body.Close()
	for buf := make([]byte, 4096); ; {
		n, err := r.Read(buf)
		s.mu.Lock()
		s.got, s.err = append(s.got, buf[:n]...), err
		s.mu.Unlock()
		if err != nil {
			return
		}
	}
}

// check compares what has come by now.
func (s *stream) check(st *step) error {
	synctest.Wait()
	s.mu.Lock()
	defer s.mu.Unlock()
	if st.Body != nil {
		if ok, agree := st.Body.match(string(s.got), st.texts); !ok {
			return fmt.Errorf("stream %q\n     got %q\nexpected %v\nthey agree for %d bytes", st.Stream, s.got, *st.Body, agree)
		}
	}
	s.got = s.got[:0]
	if ended := s.err != nil; ended != st.Closed {
		return fmt.Errorf("stream %q ended: %v (%v), expected %v", st.Stream, ended, s.err, st.Closed)
	}
	if s.err != nil && !errors.Is(s.err, io.EOF) {
		return fmt.Errorf("stream %q: %w", st.Stream, s.err)
	}
	return nil
}

func (s *stream) close() {
	s.conn.Close()
	<-s.done
}
