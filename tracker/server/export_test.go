package server

import (
	"log/slog"
	"net/netip"
	"strings"
	"time"

	"ntrack/tracker/rate"
)

// SetStreamTCPTimeout sets TCP_USER_TIMEOUT of streams to a time that a test can wait for.
func (s *Server) SetStreamTCPTimeout(d time.Duration) { s.streamTCPTimeout = d }

// SetConnRate sets how many connections one address may open. Call it before the first one.
func (s *Server) SetConnRate(perSecond, burst int) {
	s.once.Do(s.init)
	s.limiter.rate.limit = rate.Limit{PerSecond: perSecond, Burst: burst}
}

// Conns returns the number of open connections.
func (s *Server) Conns() int {
	s.once.Do(s.init) // the test may call this before Serve does it
	s.limiter.mu.Lock()
	defer s.limiter.mu.Unlock()
	return s.limiter.numAdmitted + s.limiter.numRefused
}

// Goroutines returns the number of connections that have a goroutine.
func (s *Server) Goroutines() int {
	s.once.Do(s.init) // the test may call this before Serve does it
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.conns)
}

// Silent returns the number of connections that have not sent a request yet.
func (s *Server) Silent() int { return s.waiting(silentConns) }

// Begun returns the number of connections that have sent a part of a request.
func (s *Server) Begun() int { return s.waiting(begunConns) }

// Unread returns the number of connections whose client does not read.
func (s *Server) Unread() int { return s.waiting(unreadConns) }

func (s *Server) waiting(kind queueKind) (n int) {
	s.once.Do(s.init) // the test may call this before Serve does it
	s.limiter.mu.Lock()
	defer s.limiter.mu.Unlock()
	for q := range s.limiter.queues {
		if _, size := q.oldest(); q.kind == kind {
			n += size
		}
	}
	return n
}

// LargestBuffer returns the size of the largest buffer that is kept for other connections.
func (s *Server) LargestBuffer() (n int) {
	s.once.Do(s.init) // the test may call this before Serve does it
	for range 64 {
		b := s.buffers.Get().(*buffers)
		n = max(n, cap(b.out), cap(b.body))
	}
	return n
}

// DetectStall makes a stallDetector for a client. state returns what the system knows about the
// bytes sent to the client. The detector runs from start to stop, and calls stalled if the client
// reads nothing for as long as limit.
func DetectStall(limit time.Duration, state func() (pending bool, acked uint64, sinceHeard time.Duration), stalled func()) (start, stop func()) {
	d := &stallDetector{limit: limit, stalled: stalled, state: func() (sendState, bool) {
		pending, acked, sinceHeard := state()
		return sendState{pending, acked, sinceHeard}, true
	}}
	return d.afterWrite, d.stop
}

// LogTo returns a logger that calls line with the text of each record.
func LogTo(line func(string)) *slog.Logger { return slog.New(slog.NewTextHandler(lines(line), nil)) }

type lines func(string)

func (l lines) Write(b []byte) (int, error) {
	l(strings.TrimSuffix(string(b), "\n"))
	return len(b), nil
}

// TakeProxyHeader takes a PROXY header off the beginning of in. It returns the bytes after it and
// the client, whose address is not valid if the proxy has none. complete is false if the header is
// not whole.
func TakeProxyHeader(in []byte) (rest []byte, client netip.AddrPort, complete bool, err error) {
	how := headerDue
	rest, err = takeProxyHeader(in, &client, &how)
	if how == proxyItself {
		client = netip.AddrPort{}
	}
	return rest, client, how != headerDue, err
}

// A Head is what the server reads in the head of a request.
type Head struct {
	Method, Target                                 string
	Minor                                          int
	Accept, Authorization, ForwardedFor, FetchMode string
	HasOrigin, HasBrowserField                     bool
	KeepAlive, Expect, Chunked                     bool
	ContentLength                                  int64
}

// ParseHead parses the head at the beginning of b. n is its length, or 0 if it is not complete.
func ParseHead(b []byte) (got Head, n int, err error) {
	if n = headEnd(b, 0); n == 0 {
		return got, 0, nil
	}
	var h head
	err = h.parseHead(b[:n])
	return Head{h.method, string(h.target), h.minor, string(h.accept), string(h.authorization), string(h.forwardedFor), string(h.fetchMode),
		h.hasOrigin, h.hasBrowserField, h.keepAlive, h.expect, h.chunked, h.length}, n, err
}

// HeadEnd returns the length of the head at the beginning of b, or 0 if it is not complete.
func HeadEnd(b []byte, searched int) int { return headEnd(b, searched) }
