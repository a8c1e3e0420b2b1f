package main

import (
	"bufio"
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"time"

	"ntrack/announce/wire"
)

// clients announce to a tracker over HTTP, each on a connection that it keeps. The tracker trusts them
// to name the address of the peer.
type clients struct {
	*driver
	plan *plan
	port int
}

// errUnavailable is a reply with status 503: the tracker's store does not answer in time.
var errUnavailable = errors.New("503 Service Unavailable")

// A conn is a connection to a tracker.
type conn struct {
	net.Conn
	in      *bufio.Reader
	request []byte
	body    []byte
}

func dial(port int) (*conn, error) {
	c, err := net.Dial("tcp", fmt.Sprint("127.0.0.1:", port))
	if err != nil {
		return nil, err
	}
	return &conn{Conn: c, in: bufio.NewReader(c)}, nil
}

// ask sends c.request and returns the body of the reply, which must have status 200. It is valid until
// the next call.
func (c *conn) ask() ([]byte, error) {
	_ = c.SetDeadline(time.Now().Add(20 * time.Second))
	if _, err := c.Write(c.request); err != nil {
		return nil, err
	}
	length, status := 0, error(nil)
	for first := true; ; first = false {
		line, err := c.in.ReadSlice('\n')
		if err != nil {
			return nil, err
		}
		if first && bytes.HasPrefix(line, []byte("HTTP/1.1 503 ")) {
			status = errUnavailable
		} else if first && !bytes.HasPrefix(line, []byte("HTTP/1.1 200 ")) {
			return nil, fmt.Errorf("a reply begins %q", line)
		}
		if v, ok := bytes.CutPrefix(line, []byte("Content-Length: ")); ok {
			if length, err = strconv.Atoi(string(bytes.TrimSpace(v))); err != nil {
				return nil, err
			}
		}
		if len(line) == 2 {
			break
		}
	}
	c.body = append(c.body[:0], make([]byte, length)...)
	_, err := io.ReadFull(c.in, c.body)
	return c.body, cmp.Or(err, status)
}

// open connects the callers.
func (c *clients) open() error {
	conns := make([]*conn, c.plan.Callers)
	for i := range conns {
		var err error
		if conns[i], err = dial(c.port); err != nil {
			return err
		}
	}
	c.driver = &driver{keys: c.plan.Keys, peers: c.plan.Peers, announce: func(caller, k, i int) error {
		conn, e := conns[caller], endpointOf(k, i)
		b := wire.AppendEscaped(append(conn.request[:0], "GET /announce?info_hash="...), keyOf(k))
		b = strconv.AppendUint(append(b, "&peer_id=-qB4650-1a2b3c4d5e6f&port="...), uint64(e.Port()), 10)
		b = strconv.AppendInt(append(b, "&uploaded=0&downloaded=0&left=1&corrupt=0&key=1A2B3C4D&numwant="...), want, 10)
		b = e.Addr().AppendTo(append(b, "&compact=1&no_peer_id=1 HTTP/1.1\r\nHost: 127.0.0.1:6969\r\nUser-Agent: qBittorrent/4.6.5\r\nX-Forwarded-For: "...))
		conn.request = append(b, "\r\n\r\n"...)
		body, err := conn.ask()
		for again := 0; errors.Is(err, errUnavailable) && again < 20; again++ {
			c.refused.Add(1)
			time.Sleep(50 * time.Millisecond)
			body, err = conn.ask()
		}
		if err != nil {
			return err
		}
		_, list, ok := bytes.Cut(body, []byte("5:peers"))
		size, _, _ := bytes.Cut(list, []byte(":"))
		if n, err := strconv.Atoi(string(size)); !ok || err != nil || n != 6*min(want, c.plan.Peers-1) {
			return fmt.Errorf("a reply is %q", body)
		}
		return nil
	}}
	return nil
}

func (c *clients) start() error {
	if c.driver == nil {
		if err := c.open(); err != nil {
			return err
		}
	}
	c.driver.start(c.plan.Callers, uint64(time.Now().UnixNano()))
	return nil
}

func (c *clients) stop() error {
	c.driver.stop()
	return nil
}
