package servertest

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net/http"
	"regexp"
	"slices"
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
	conn  *conn
	r     *bufio.Reader
	wrote chan struct{} // closed when the latest request has been sent; nil before the first
}

func newClient(conn *conn) *client {
	return &client{conn: conn, r: bufio.NewReader(conn)}
}

func (c *client) close() {
	c.conn.Close()
	if c.wrote != nil {
		<-c.wrote
	}
}

// send sends a request of st and reads the head of the reply.
func (c *client) send(st *step, request latin1) (*http.Response, error) {
	if c.wrote != nil {
		<-c.wrote
	}
	c.conn.SetDeadline(time.Now().Add(patience))
	c.wrote = make(chan struct{})
	// A server may refuse a request before it has read the whole request, and the connection is
	// a net.Pipe, which has no buffer. So the client reads while it still writes, and ignores an
	// error of the write.
	go func() {
		defer close(c.wrote)
		size := len(request)
		if st.InPieces {
			size = 1
		}
		for piece := range slices.Chunk([]byte(request), size) {
			c.conn.Write(piece)
		}
		if st.HalfClose && st.Stream == "" {
			c.conn.CloseWrite()
		}
	}()

	method, _, _ := strings.Cut(string(request), " ")
	resp, err := http.ReadResponse(c.r, &http.Request{Method: method})
	if err != nil {
		return nil, fmt.Errorf("no reply: %w", err)
	}
	return resp, nil
}

// do sends a request of st and checks the reply against st. ended says whether the server closes the
// connection after it.
func (c *client) do(st *step, request latin1) (ended bool, err error) {
	resp, err := c.send(st, request)
	if err != nil {
		return true, err
	}
	return resp.Close, c.check(st, resp)
}

func (c *client) check(st *step, resp *http.Response) error {
	got, err := io.ReadAll(resp.Body)
	if err != nil {
		return fmt.Errorf("status %d, body cut short after %q: %w", resp.StatusCode, got, err)
	}
	if resp.StatusCode != st.Status {
		return fmt.Errorf("status\n     got %d\nexpected %d\n    body %q", resp.StatusCode, st.Status, got)
	}
	if err := checkLength(resp); err != nil {
		return err
	}
	if err := checkFields(resp.Header, st); err != nil {
		return fmt.Errorf("%w\n    body %q", err, got)
	}
	if st.Body != nil {
		if ok, fits := st.Body.match(string(got), st.texts); !ok {
			return fmt.Errorf("body\n     got %q\nexpected %v\nthey agree for %d bytes", got, *st.Body, fits)
		}
	}
	if n := c.r.Buffered(); n > 0 {
		extra, _ := c.r.Peek(n)
		return fmt.Errorf("extra bytes after the reply: %q", extra)
	}
	if st.Closed {
		if b, err := c.r.ReadByte(); err != io.EOF {
			return fmt.Errorf("the connection is still open (read %q, %v)", b, err)
		}
	}
	return nil
}

func checkFields(h http.Header, st *step) error {
	for name, want := range st.Headers {
		if err := checkField(h, name, want, st.texts); err != nil {
			return err
		}
	}
	return nil
}

// checkLength checks that the reply has a Content-Length, so that a client need not know chunks.
// Only one reply needs none: net/http refuses bytes that are not HTTP itself, with a 400, and then
// closes the connection.
func checkLength(resp *http.Response) error {
	switch {
	case len(resp.TransferEncoding) > 0:
		return fmt.Errorf("the reply is sent in chunks: %q", resp.TransferEncoding)
	case resp.StatusCode == http.StatusNoContent && resp.Header.Get("Content-Length") != "":
		return errors.New("a reply of status 204 has a Content-Length")
	case resp.StatusCode == http.StatusNoContent, resp.ContentLength >= 0:
		return nil
	case resp.StatusCode == http.StatusBadRequest && resp.Close:
		return nil
	}
	return fmt.Errorf("the reply has no Content-Length: %v", resp.Header)
}

// checkField checks one header field. If want is nil, the field must be absent. If want is
// "Date+150", the field must be the time 150 seconds after the reply's Date.
func checkField(h http.Header, name string, want *body, texts map[string]string) error {
	got, present := h[http.CanonicalHeaderKey(name)]
	if want == nil {
		if present {
			return fmt.Errorf("header %s\n     got %q\nexpected none", name, got)
		}
		return nil
	}
	if after, ok := strings.CutPrefix(string((*want)[0].Literal), "Date+"); ok {
		seconds, err := strconv.Atoi(after)
		if err != nil {
			return fmt.Errorf("header %s: %q is not a number of seconds", name, after)
		}
		date, err := http.ParseTime(h.Get("Date"))
		if err != nil {
			return fmt.Errorf("header Date: %w", err)
		}
		want = &body{{Literal: latin1(date.Add(time.Duration(seconds) * time.Second).Format(http.TimeFormat))}}
	}
	if len(got) == 1 {
		if ok, _ := want.match(got[0], texts); ok {
			return nil
		}
	}
	return fmt.Errorf("header %s\n     got %q\nexpected %v", name, got, *want)
}

// A stream is a connection on which the server goes on sending.
type stream struct {
	conn *conn
	done chan struct{} // closed when either end has closed the connection

	mu      sync.Mutex
	got     []byte        // what the server has sent since the last check
	last    time.Time     // when it last sent something
	longest time.Duration // the longest time in which it sent nothing
	err     error         // io.EOF if the server has closed the connection
}

// silence is how long a server may send nothing on a stream: 15 seconds, and a second for its clock.
const silence = 16 * time.Second

// heartbeat matches heartbeats, but not the end of an event.
var heartbeat = regexp.MustCompile("(?m)^:\n\n")

// openStream sends the request of st, checks the head of the reply, and leaves the connection open.
func openStream(conn *conn, st *step) (*stream, error) {
	c := newClient(conn)
	resp, err := c.send(st, st.Send)
	if err == nil {
		err = checkStreamHead(resp, st)
	}
	if err != nil {
		c.close()
		return nil, err
	}
	<-c.wrote
	_ = conn.SetDeadline(time.Time{})
	s := &stream{conn: conn, done: make(chan struct{}), last: time.Now()}
	go s.collect(c.r, resp)
	return s, nil
}

// collect reads until the connection ends.
func (s *stream) collect(r *bufio.Reader, resp *http.Response) {
	defer close(s.done)
	defer resp.Body.Close()
	for buf := make([]byte, 4096); ; {
		n, err := r.Read(buf)
		s.mu.Lock()
		s.got, s.err = append(s.got, buf[:n]...), err
		s.longest, s.last = max(s.longest, time.Since(s.last)), time.Now()
		s.mu.Unlock()
		if err != nil {
			return
		}
	}
}

// check compares what the server has sent since the last check, without heartbeats, with st.
func (s *stream) check(st *step) error {
	synctest.Wait()
	s.mu.Lock()
	defer s.mu.Unlock()
	if st.Body != nil {
		got := heartbeat.ReplaceAllString(string(s.got), "")
		if ok, fits := st.Body.match(got, st.texts); !ok {
			return fmt.Errorf("stream %q\n     got %q\nexpected %v\nthey agree for %d bytes", st.Stream, got, *st.Body, fits)
		}
	}
	if s.err == nil {
		s.longest = max(s.longest, time.Since(s.last))
	}
	if s.longest > silence {
		return fmt.Errorf("stream %q: nothing was sent for %v", st.Stream, s.longest)
	}
	s.got = s.got[:0]
	if ended := s.err != nil; ended != st.Closed {
		return fmt.Errorf("stream %q ended: got %v (%v), expected %v", st.Stream, ended, s.err, st.Closed)
	}
	if s.err != nil && !errors.Is(s.err, io.EOF) {
		return fmt.Errorf("stream %q: %w", st.Stream, s.err)
	}
	return nil
}

func checkStreamHead(resp *http.Response, st *step) error {
	switch {
	case resp.StatusCode != st.Status:
		return fmt.Errorf("status\n     got %d\nexpected %d", resp.StatusCode, st.Status)
	case len(resp.TransferEncoding) > 0, resp.ContentLength >= 0, !resp.Close:
		return fmt.Errorf("a stream needs Connection: close, and no Content-Length or chunks: %q, %v", resp.TransferEncoding, resp.Header)
	}
	return checkFields(resp.Header, st)
}

func (s *stream) close() {
	s.conn.Close()
	<-s.done
}
