package server

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"net"
	"net/netip"
	"os"

	proxyproto "github.com/pires/go-proxyproto"

	"ntrack/announce/wire"
)

// A via says how the requests of a connection come from the client.
type via uint8

const (
	// direct: the remote address of the connection is that of the client, or of a proxy that sends
	// X-Forwarded-For.
	direct via = iota
	// unixSocket: a proxy on this machine sends X-Forwarded-For. There is no remote address.
	unixSocket
	// headerDue: the connection must begin with a PROXY header, which has not come yet. The remote
	// address is that of the proxy, if there is one.
	headerDue
	// proxied: the remote address is that of the client, from the PROXY header.
	proxied
	// proxyItself: the header says that the proxy has no client on this connection. Usually the
	// proxy looks whether the server is alive.
	proxyItself
)

// counted is the address for which the limiter counts a connection. It is always the other end of
// the connection. A connection with a PROXY header comes from a trusted proxy, which has no limit.
func (v via) counted(remote netip.AddrPort) netip.AddrPort {
	if v >= headerDue {
		return netip.AddrPort{}
	}
	return remote
}

// viaOf says how the requests of a new connection come.
func (s *Server) viaOf(remote netip.AddrPort, unix bool) via {
	switch {
	case s.ProxyProtocol && (unix || s.Tracker.Trusts(remote.Addr())):
		return headerDue
	case unix:
		return unixSocket
	}
	return direct
}

const (
	maxProxyLine   = 107 // bytes of a header of version 1, with CRLF
	proxyPrefix    = 16  // bytes of a header of version 2 up to its length, inclusive
	maxProxyBinary = proxyPrefix + 4<<10
)

var (
	proxyV1 = []byte("PROXY ")
	proxyV2 = []byte("\r\n\r\n\x00\r\nQUIT\n")
)

// A badHeader is the fault of a PROXY header.
type badHeader string

func (b badHeader) Error() string { return string(b) }

const (
	noHeader       badHeader = "it began without a header"
	longHeader     badHeader = "its header is too long"
	cutHeader      badHeader = "it ended within its header"
	lateHeader     badHeader = "its header did not come in time"
	invalidHeader  badHeader = "its header is malformed"
	useless        badHeader = "its header has an address that no client has"
	otherTransport badHeader = "its header is not for TCP"
)

// proxyHeaderLen returns the length of the PROXY header at the beginning of b, which may have any
// bytes after it. It returns 0 if the header is not complete. The error is a badHeader.
func proxyHeaderLen(b []byte) (int, error) {
	switch {
	case begins(b, proxyV1):
		end := bytes.IndexByte(b[:min(len(b), maxProxyLine)], '\n') + 1
		if end == 0 && len(b) >= maxProxyLine {
			return 0, longHeader
		}
		return end, nil
	case !begins(b, proxyV2):
		return 0, noHeader
	case len(b) < proxyPrefix:
		return 0, nil
	}
	n := proxyPrefix + int(binary.BigEndian.Uint16(b[proxyPrefix-2:]))
	switch {
	case n > maxProxyBinary:
		return 0, longHeader
	case n > len(b):
		return 0, nil
	}
	return n, nil
}

// begins says whether b begins with prefix, as far as b has bytes.
func begins(b, prefix []byte) bool {
	n := min(len(b), len(prefix))
	return bytes.Equal(b[:n], prefix[:n])
}

// parseProxyHeader parses a whole header. It returns the address and port of the client, and
// proxied. If the proxy has no client, it returns proxyItself. The error is a badHeader.
func parseProxyHeader(header []byte) (client netip.AddrPort, how via, err error) {
	if header[0] == proxyV2[0] && header[12] == byte(proxyproto.PROXY) && header[13]>>4 == 0 {
		return client, proxyItself, nil // AF_UNSPEC: the parser refuses it, but the specification leaves that open
	}
	h, err := proxyproto.Read(bufio.NewReaderSize(bytes.NewReader(header), maxProxyLine))
	switch {
	case err != nil:
		return client, headerDue, invalidHeader
	case h.Command.IsLocal() || h.TransportProtocol.IsUnix() || h.TransportProtocol.IsUnspec():
		return client, proxyItself, nil
	}
	source, ok := h.SourceAddr.(*net.TCPAddr)
	if !ok {
		return client, headerDue, otherTransport
	}
	client = wire.Canonical(source.AddrPort())
	if a := client.Addr(); !a.IsValid() || a.IsUnspecified() || a.IsMulticast() || a == netip.AddrFrom4([4]byte{255, 255, 255, 255}) {
		return client, headerDue, useless
	}
	return client, proxied, nil
}

// takeProxyHeader takes the PROXY header off the beginning of in. It returns the bytes after it, and
// changes remote and how. If the header is not complete, how is still headerDue.
func takeProxyHeader(in []byte, remote *netip.AddrPort, how *via) ([]byte, error) {
	n, err := proxyHeaderLen(in)
	if err != nil || n == 0 {
		return in, err
	}
	client, v, err := parseProxyHeader(in[:n])
	switch {
	case err != nil:
		return in, err
	case v == proxied:
		*remote = client
	case !remote.IsValid(): // a proxy at a Unix socket is on this machine
		*remote = netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), 0)
	}
	*how = v
	return in[n:], nil
}

// logProxy logs why a connection of a proxy ended before its first request.
func (s *Server) logProxy(remote netip.AddrPort, fault error) {
	remedy := "make the proxy send the PROXY protocol, version 1 or 2, or run the tracker without it"
	if fault != noHeader && fault != lateHeader {
		remedy = "look at the proxy's settings of the PROXY protocol"
	}
	s.logLimit(limitProxyHeader, remote, "a connection of a trusted proxy was closed: %s; %s", fault, remedy)
}

// readProxyHeader reads the PROXY header of a connection with a goroutine, also under TLS, where it
// comes before the handshake. It returns false if the connection ends.
func (c *conn) readProxyHeader() bool {
	if c.via != headerDue {
		return true
	}
	if c.s.shuttingDown.Load() {
		c.limitSilence()
	}
	source := c.nc
	if c.beforeTLS != nil {
		source = c.beforeTLS.Conn
	}
	for {
		rest, err := takeProxyHeader(c.in, &c.remote, &c.via)
		switch {
		case err != nil:
			c.s.logProxy(c.remote, err)
			return false
		case c.via != headerDue && c.beforeTLS != nil:
			c.beforeTLS.unread, c.in = bytes.Clone(rest), c.in[:0]
			return true
		case c.via != headerDue:
			if c.in = c.in[:copy(c.in, rest)]; len(c.in) > 0 {
				c.entry.dequeue()
				c.isSilent = false
			}
			return true
		}
		if len(c.in) == cap(c.in) {
			c.in = append(c.in, make([]byte, max(cap(c.in), firstRead))...)[:len(c.in)]
		}
		n, err := c.readFrom(source, c.in[len(c.in):cap(c.in)])
		if c.in = c.in[:len(c.in)+n]; n > 0 {
			continue
		}
		c.failProxyHeader(err)
		return false
	}
}

// failProxyHeader ends a connection whose header did not come.
func (c *conn) failProxyHeader(err error) {
	c.entry.dequeue()
	switch {
	case c.s.shuttingDown.Load():
	case c.entry.evicted:
		if c.beforeTLS == nil && c.write([]byte(tooMany)) == nil {
			c.linger()
		}
	case errors.Is(err, os.ErrDeadlineExceeded):
		c.s.logProxy(c.remote, lateHeader)
	case len(c.in) > 0:
		c.s.logProxy(c.remote, cutHeader)
	}
}

// An unreadConn is a connection from which some bytes were read too early. The next reads return
// them.
type unreadConn struct {
	net.Conn
	unread []byte
}

func (c *unreadConn) Read(b []byte) (int, error) {
	if len(c.unread) == 0 {
		return c.Conn.Read(b)
	}
	n := copy(b, c.unread)
	if c.unread = c.unread[n:]; len(c.unread) == 0 {
		c.unread = nil // the connection may stay open for long
	}
	return n, nil
}
