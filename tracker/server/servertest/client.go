package servertest

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// patience is how long a reply may take, in virtual time: only a door that hangs uses it up.
const patience = time.Minute

// client is one connection to the door.
type client struct {
	conn  net.Conn
	r     *bufio.Reader
	wrote chan struct{}
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

// send sends what st says and reads the head of the reply.
func (c *client) send(st *step) (*http.Response, error) {
	if c.wrote != nil {
		<-c.wrote
	}
	c.conn.SetDeadline(time.Now().Add(patience))
	c.wrote = make(chan struct{})
	// Sending runs beside reading: a door may refuse a request before it has read all of it,
	// and these pipes have no buffer. A write cut short by that is no error.
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

// do sends what st says and checks everything that st says about the reply.
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

// framing checks what is promised of every reply: its length is stated, so that a client can read
// it without knowing chunks. One reply is out of a tracker's hands: the 400 with which an HTTP
// server below it turns away what is not HTTP to it, before it closes.
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

// header checks one header: nil wants it absent, "Date+150" wants the moment 150 s after Date.
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
