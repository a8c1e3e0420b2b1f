package server

import (
	"bufio"
	"bytes"
	"io"
	"net/http/httputil"
	"strconv"
)

// drainChunks is drain for a body that comes in chunks (RFC 9112 7.1).
func (c *conn) drainChunks(h *head, n int) (used int, left int64, err error) {
	if h.expect && len(c.in) == n {
		if err := c.deliver([]byte(proceed)); err != nil {
			return 0, 0, err
		}
	}
	c.deadline(true)
	here := bytes.NewReader(c.in[n:])
	from := &failing{Reader: io.MultiReader(here, c)}
	r := bufio.NewReader(from)
	switch read, err := io.CopyN(io.Discard, httputil.NewChunkedReader(r), maxBody+1); {
	case from.err != nil: // the client is gone, or too slow
		return 0, 0, from.err
	case err == nil:
		return n, read, nil
	case err != io.EOF:
		return 0, 0, refusal("body: chunks, each after a line with its size in hexadecimal")
	}
	// The trailer, which means nothing here: lines up to an empty one.
	for size := 0; ; {
		line, err := r.ReadSlice('\n')
		switch size += len(line); {
		case from.err != nil:
			return 0, 0, from.err
		case err != nil, size > maxHead:
			return 0, 0, refusal("trailer of the body: at most " + strconv.Itoa(maxHead) + " bytes")
		}
		if len(bytes.TrimRight(line, "\r\n")) == 0 {
			break
		}
	}
	next, _ := r.Peek(r.Buffered()) // it begins the next request
	if here.Len() > 0 {
		return len(c.in) - here.Len() - len(next), 0, nil
	}
	c.in = append(c.in[:n], next...)
	return n, 0, nil
}

// failing remembers why there was nothing more to read.
type failing struct {
	io.Reader
	err error
}

func (f *failing) Read(b []byte) (int, error) {
	n, err := f.Reader.Read(b)
	if n == 0 {
		f.err = err
	}
	return n, err
}
