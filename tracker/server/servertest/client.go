package servertest

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"testing/synctest"
	"time"
)

// patience is how long a reply may take, in virtual time. Only a server that hangs takes that long.
const patience = time.Minute

// A client is one connection to the server.
type client struct {
	conn  net.Conn
	r     *bufio.Reader
	wrote chan struct{} // closed when the last request has been sent; nil before the first
}

func newClient(conn net.Conn) *client {
	return &client{conn: conn, r: bufio.NewReader(conn)}
}

func (c *client) close() {
	c.conn.Close()
	if c.wrote != nil {
		<-c.wrote
	}
}

// send sends the request of st and reads the head of the reply.
func (c *client) send(st *step) (*http.Response, error) {
	if c.wrote != nil {
		<-c.wrote
	}
	c.conn.SetDeadline(time.Now().Add(patience))
	c.wrote = make(chan struct{})
	// The client sends and reads at the same time: a server may refuse a request before it has
	// read all of it, and these pipes have no buffer. A write that this cuts short is no error.
	go func() {
		defer close(c.wrote)
		io.WriteString(c.conn, string(st.Send))
	}()

	method, _, _ := strings.Cut(string(st.Send), " ")
	resp, err := http.ReadResponse(c.r, &http.Request{Method: method})
	if err != nil {
		return nil, fmt.Errorf("no reply: %w", err)
	}
	return resp, nil
}

// do sends the request of st and checks the reply against st.
func (c *client) do(st *step) error {
	resp, err := c.send(st)
	if err != nil {
		return err
	}
	got, err := io.ReadAll(resp.Body)
	if err != nil {
		return fmt.Errorf("status %d, body cut short after %q: %w", resp.StatusCode, got, err)
	}
	if resp.StatusCode != st.Status {
		return fmt.Errorf("status\n     got %d\nexpected %d\n    body %q", resp.StatusCode, st.Status, got)
	}
	if err := framing(resp); err != nil {
		return err
	}
	if err := headers(resp.Header, st); err != nil {
		return fmt.Errorf("%w\n    body %q", err, got)
	}
	if st.Body != nil {
		if ok, agree := st.Body.match(string(got), st.texts); !ok {
			return fmt.Errorf("body\n     got %q\nexpected %v\nthey agree for %d bytes", got, *st.Body, agree)
		}
	}
	if n := c.r.Buffered(); n > 0 {
		extra, _ := c.r.Peek(n)
		return fmt.Errorf("after the reply came %q", extra)
	}
	if st.Closed {
		if b, err := c.r.ReadByte(); err != io.EOF {
			return fmt.Errorf("the connection is still open (read %q, %v)", b, err)
		}
	}
	return nil
}

func headers(h http.Header, st *step) error {
	for name, want := range st.Headers {
		if err := header(h, name, want); err != nil {
			return err
		}
	}
	return nil
}

// framing checks that the reply has a Content-Length, so that a client need not know chunks. Every
// reply has one, except the 400 of an HTTP server below the tracker, which refuses what is not HTTP
// and closes.
func framing(resp *http.Response) error {
	switch {
	case len(resp.TransferEncoding) > 0:
		return fmt.Errorf("the reply is sent in chunks: %q", resp.TransferEncoding)
	case resp.StatusCode == http.StatusNoContent, resp.ContentLength >= 0:
		return nil
	case resp.StatusCode == http.StatusBadRequest && resp.Close:
		return nil
	}
	return fmt.Errorf("the reply has no Content-Length: %v", resp.Header)
}

// header checks one header field. If want is nil, it must be absent. "Date+150" is the time 150 s
// after Date.
func header(h http.Header, name string, want *string) error {
	got, present := h[http.CanonicalHeaderKey(name)]
	if want == nil {
		if present {
			return fmt.Errorf("header %s\n     got %q\nexpected none", name, got)
		}
		return nil
	}
	expect := *want
	if after, ok := strings.CutPrefix(expect, "Date+"); ok {
		seconds, err := strconv.Atoi(after)
		if err != nil {
			return fmt.Errorf("header %s: %q is not a number of seconds", name, after)
		}
		date, err := http.ParseTime(h.Get("Date"))
		if err != nil {
			return fmt.Errorf("header Date: %w", err)
		}
		expect = date.Add(time.Duration(seconds) * time.Second).Format(http.TimeFormat)
	}
	if len(got) != 1 || got[0] != expect {
		return fmt.Errorf("header %s\n     got %q\nexpected %q", name, got, expect)
	}
	return nil
}

// A stream is a connection on which the server goes on sending.
type stream struct {
	conn net.Conn
	done chan struct{} // closed when either end has closed it

	mu  sync.Mutex
	got []byte // since the last step that checked it
	err error  // io.EOF if the server has ended it
}

// openStream sends the request of st and leaves the connection open.
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

// check compares what has come so far with st.
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
