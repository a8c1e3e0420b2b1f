package valkeytest

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"strings"
	"time"
)

// An ErrorReply is what a server says of a command that it refuses.
type ErrorReply string

func (e ErrorReply) Error() string { return string(e) }

// A Conn is a connection to a server, without any cleverness.
type Conn struct {
	conn net.Conn
	r    *bufio.Reader
}

// Dial connects to a server. A nil config is no TLS, and an empty password no user.
func Dial(addr string, config *tls.Config, user, password string) (*Conn, error) {
	conn, err := net.DialTimeout("tcp", addr, patience)
	if err != nil {
		return nil, err
	}
	if config != nil {
		conn = tls.Client(conn, config)
	}
	c := &Conn{conn: conn, r: bufio.NewReader(conn)}
	if password != "" {
		if _, err := c.Do("AUTH", user, password); err != nil {
			c.Close()
			return nil, err
		}
	}
	return c, nil
}

// Close ends the connection.
func (c *Conn) Close() { _ = c.conn.Close() }

// Do sends a command and returns its reply. See [Node.Do].
func (c *Conn) Do(args ...string) (any, error) {
	if err := c.conn.SetDeadline(time.Now().Add(patience)); err != nil {
		return nil, err
	}
	var b strings.Builder
	fmt.Fprintf(&b, "*%d\r\n", len(args))
	for _, a := range args {
		fmt.Fprintf(&b, "$%d\r\n%s\r\n", len(a), a)
	}
	if _, err := io.WriteString(c.conn, b.String()); err != nil {
		return nil, err
	}
	return c.reply()
}

// reply reads a reply of the protocol's second version.
func (c *Conn) reply() (any, error) {
	line, err := c.r.ReadString('\n')
	if err != nil {
		return nil, err
	}
	line = strings.TrimSuffix(line, "\r\n")
	if line == "" {
		return nil, errors.New("an empty line instead of a reply")
	}
	switch kind, rest := line[0], line[1:]; kind {
	case '+':
		return rest, nil
	case '-':
		return nil, ErrorReply(rest)
	case ':':
		return strconv.ParseInt(rest, 10, 64)
	case '$', '*':
		n, err := strconv.Atoi(rest)
		if err != nil || n < 0 {
			return nil, err
		}
		if kind == '$' {
			b := make([]byte, n+2)
			_, err := io.ReadFull(c.r, b)
			return string(b[:n]), err
		}
		all := make([]any, n)
		for i := range all {
			all[i], err = c.reply()
			if refused := ErrorReply(""); errors.As(err, &refused) {
				all[i] = refused
			} else if err != nil {
				return nil, err
			}
		}
		return all, nil
	}
	return nil, fmt.Errorf("the reply %q", line)
}

// ReadFrame appends to dst the bytes of one reply or message of RESP3, with all its parts. Its first byte is
// '>' if it is a message.
func ReadFrame(r *bufio.Reader, dst []byte) ([]byte, error) {
	line, err := r.ReadSlice('\n')
	if err != nil {
		return dst, err
	}
	dst = append(dst, line...)
	kind := line[0]
	parts := 1
	switch kind {
	case '$', '=', '!', '*', '~', '>', '%', '|':
		n, err := strconv.Atoi(string(bytes.TrimRight(line[1:], "\r\n")))
		if err != nil {
			return dst, err
		}
		if parts = n; n < 0 {
			return dst, nil
		}
	default:
		return dst, nil
	}
	switch kind {
	case '$', '=', '!':
		from := len(dst)
		dst = append(dst, make([]byte, parts+2)...)
		_, err := io.ReadFull(r, dst[from:])
		return dst, err
	case '%':
		parts *= 2
	case '|':
		parts = 2*parts + 1 // attributes, and then what they are of
	}
	for range parts {
		if dst, err = ReadFrame(r, dst); err != nil {
			return dst, err
		}
	}
	return dst, nil
}
