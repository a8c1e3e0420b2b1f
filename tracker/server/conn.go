package server

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"net"
	"net/http/httputil"
	"net/netip"
	"os"
	"runtime"
	"strconv"
	"syscall"
	"time"

	"ntrack/tracker"
)

// A conn is a connection with a goroutine of its own.
type conn struct {
	s        *Server
	nc       net.Conn
	turn     *turnConn // is below nc, or is nc
	remote   netip.AddrPort
	via      via
	verdict  verdict // not dropped
	account  account
	unread   int        // bytes that were sent and may not have been read, according to the last look
	entry    queueEntry // while it waits for a request
	isSilent bool       // it has not sent a request yet
	// deadline is the read deadline of nc. It does not move with every request, because that would
	// take as long as to parse a request.
	deadline      time.Time
	writeDeadline time.Time
	inRequest     bool     // the deadlines are those of a request, not of an idle connection
	in            []byte   // bytes that were read and belong to requests not yet served
	b             *buffers // of the current batch; nil between batches
	served        int      // requests in the current batch
	// unsent is what to send first: replies that a worker could not send, or a refusal. If
	// closeAfter is set, the connection ends after that.
	unsent     []byte
	closeAfter bool
	stream     *tracker.Stream // the event stream that the last reply opened
	stall      *stallDetector  // of the stream
	// beforeTLS is the connection below TLS if a PROXY header comes before the handshake; else nil.
	beforeTLS *unreadConn
}

// serveRequests serves requests until the connection ends.
func (c *conn) serveRequests() {
	in := c.s.inputs.Get().(*[]byte)
	c.in = append((*in)[:0], c.in...)
	defer func() {
		if p := recover(); p != nil {
			c.s.logPanic(c.remote, p)
			_ = c.flush()
		} else if in != nil {
			*in = c.in
			c.s.inputs.Put(in)
		}
		if c.stream != nil {
			c.stream.Close()
		}
		c.turn.end()
		c.s.releaseConn(c.remote, c.via, c.verdict, &c.account)
		_ = c.nc.Close()
		c.s.mu.Lock()
		delete(c.s.conns, c)
		c.s.mu.Unlock()
		c.s.active.Done()
	}()
	c.turn.begin()
	// A connection with unsent replies may be idle after them. Any other connection has Timeout for
	// its next request.
	c.setDeadline(c.unsent == nil)
	if c.verdict == refused {
		// A client may drop the connection if a reply comes before it has sent a request.
		_ = c.nc.SetReadDeadline(time.Now().Add(silentGrace))
		_, _ = c.nc.Read(c.in[:cap(c.in)])
	}
	err := c.write(c.unsent)
	if c.closeAfter && err == nil {
		c.linger()
	}
	if c.closeAfter || err != nil || !c.readProxyHeader() {
		return
	}
	c.unsent = nil
	var h head
	for {
		n, err := c.readHead()
		if err == nil {
			err = h.parseHead(c.in[:n])
		}
		var used int
		var left int64
		if err == nil {
			used, left, err = c.discardBody(&h, n)
		}
		if bad, ok := err.(badRequest); ok {
			c.sendRefusal(bad)
		}
		if err != nil {
			c.refusePlain(err)
			return
		}
		more, err := c.serveRequest(&h, !h.keepAlive || left > 0)
		switch {
		case err != nil:
			return
		case c.stream != nil:
			*in = c.in
			c.s.inputs.Put(in)
			in, c.in = nil, nil
			c.serveStream()
			return
		case !more:
			// If the client asked to close and has sent nothing else, it will not send more.
			if h.keepAlive || left > 0 || used < len(c.in) {
				c.linger()
			}
			return
		}
		c.in = c.in[:copy(c.in, c.in[used:])]
		c.inRequest = false
	}
}

// readHead reads until c.in begins with a whole head, and returns the length of this head.
func (c *conn) readHead() (int, error) {
	c.setDeadline(len(c.in) > 0) // the client may have begun the next request
	for searched := 0; ; {
		c.in = c.in[:copy(c.in, skipEmptyLines(c.in))]
		if len(c.in) > 0 && !isToken(c.in[:1]) && c.in[0] != '\r' {
			return 0, badRequest("not an HTTP request") // probably a TLS client, which waits for a reply
		}
		n := headEnd(c.in, searched)
		searched = len(c.in)
		if n > maxHead || n == 0 && searched > maxHead {
			return 0, badRequest("request line and headers: at most " + strconv.Itoa(maxHead) + " bytes")
		}
		if n > 0 {
			return n, nil
		}
		var err error
		if searched > 0 {
			c.setDeadline(true)
			if err := c.flush(); err != nil {
				return 0, err
			}
			switch {
			case c.entry.queued():
				err = c.readMore()
			case c.entry.evicted: // just before these bytes arrived
				err = ErrClosed
			default:
				c.enqueueIn(&c.s.begun)
				defer c.entry.dequeue()
				err = c.readMore()
			}
			if err != nil {
				c.refuseEvicted()
			}
		} else {
			err = c.awaitRequest()
		}
		if err == io.EOF && len(c.in) > 0 {
			err = cutShort
		}
		if err != nil {
			return 0, err
		}
	}
}

// awaitRequest reads the first bytes of a request. Until they arrive, the connection may be
// evicted. If it is evicted before its first request, the client gets a 503.
func (c *conn) awaitRequest() error {
	if !c.isSilent {
		if c.entry.evicted { // at the end of the last wait, when a request had just arrived
			return ErrClosed
		}
		if c.b != nil && c.unread+len(c.b.out) > largeUnread { // first wait in the queue of those that do not read
			if err := c.flush(); err != nil {
				return err
			}
		}
		if c.unread > largeUnread {
			c.enqueueIn(&c.s.unread)
		} else {
			c.enqueueIn(&c.s.idle)
		}
	}
	err := error(ErrClosed)
	if ending := c.s.shuttingDown.Load(); c.entry.queued() && (c.isSilent || !ending) {
		if ending {
			c.limitSilence()
		}
		err = c.readMore()
	}
	c.entry.dequeue()
	c.isSilent = false
	if err != nil {
		c.refuseEvicted()
	}
	return err
}

// refuseEvicted sends a 503 to a client that was evicted before it had sent a whole request.
func (c *conn) refuseEvicted() {
	if !c.entry.evicted || c.entry.queue.kind == idleConns || c.entry.queue.kind == unreadConns || c.s.shuttingDown.Load() {
		return
	}
	if c.write([]byte(tooMany)) == nil && c.entry.queue.kind == silentConns {
		c.linger()
	}
}

// limitSilence gives the client little time for its first request, because the server shuts down.
func (c *conn) limitSilence() {
	_ = c.nc.SetReadDeadline(time.Now().Add(min(silentGrace, c.s.Timeout)))
}

// enqueueIn lets the limiter evict the connection.
func (c *conn) enqueueIn(q *connQueue) {
	c.entry.owner = c
	q.enqueue(&c.entry, time.Now())
}

// stopWaiting makes the read or the write return for which the connection waits.
func (c *conn) stopWaiting() {
	if c.entry.queue.kind == unreadConns {
		_ = c.nc.SetDeadline(time.Unix(1, 0))
	} else {
		_ = c.nc.SetReadDeadline(time.Unix(1, 0))
	}
}

func (c *conn) accountOf() *account { return &c.account }

// readMore sends the replies of the batch. Then it reads from the client and appends the bytes to
// c.in.
func (c *conn) readMore() error {
	if err := c.flush(); err != nil {
		return err
	}
	if len(c.in) == cap(c.in) {
		c.in = append(c.in, make([]byte, max(cap(c.in), firstRead))...)[:len(c.in)]
	}
	n, err := c.Read(c.in[len(c.in):cap(c.in)])
	c.in = c.in[:len(c.in)+n]
	if n > 0 {
		return nil
	}
	return err
}

// Read reads from the client. If this process was stopped until the deadline was over, Read still
// returns what the client has sent in the meantime.
func (c *conn) Read(b []byte) (int, error) { return c.readFrom(c.nc, b) }

// readFrom is Read for c.nc or the connection below it.
func (c *conn) readFrom(nc net.Conn, b []byte) (int, error) {
	for {
		n, err := nc.Read(b)
		if n > 0 || !errors.Is(err, os.ErrDeadlineExceeded) || time.Since(c.deadline) < stoppedTime || c.s.shuttingDown.Load() {
			return n, err
		}
		c.deadline = time.Now().Add(stoppedTime)
		_ = c.nc.SetReadDeadline(c.deadline)
	}
}

// setDeadline sets the deadlines for a request or for an idle connection. During a request they do
// not move.
func (c *conn) setDeadline(inRequest bool) {
	if c.inRequest {
		return
	}
	now := time.Now()
	if c.inRequest = inRequest; inRequest {
		c.deadline = now.Add(c.s.Timeout)
	} else {
		// The deadline is a little later than Idle, so that it need not move with every request.
		if left := c.deadline.Sub(now); c.s.Idle <= left && left <= c.s.Idle*9/8 {
			return
		}
		c.deadline = now.Add(c.s.Idle * 9 / 8)
	}
	c.writeDeadline = c.deadline
	_ = c.nc.SetDeadline(c.deadline)
}

// continue100 makes a client send the body of a request, if the request has Expect: 100-continue.
const continue100 = "HTTP/1.1 100 Continue\r\n\r\n"

// discardBody reads and ignores the body of the request whose head has n bytes. used is how many
// bytes of c.in belong to the request. left is above 0 if the body was not read to its end, because
// it is longer than maxBody.
func (c *conn) discardBody(h *head, n int) (used int, left int64, err error) {
	buffered := min(h.length, int64(len(c.in)-n))
	used, left = n+int(buffered), h.length-buffered
	if left == 0 && !h.chunked {
		return used, 0, nil
	}
	if err := c.flush(); err != nil {
		return 0, 0, err
	}
	if h.expect && (left > 0 || len(c.in) == n) {
		if err := c.write([]byte(continue100)); err != nil {
			return 0, 0, err
		}
	}
	c.setDeadline(true)
	if h.chunked {
		return c.discardChunks(n)
	}
	read, err := io.CopyN(io.Discard, c, min(left, maxBody))
	return used, left - read, err
}

// discardChunks is discardBody for a body with a chunked transfer coding (RFC 9112 section 7.1).
func (c *conn) discardChunks(n int) (used int, left int64, err error) {
	buffered := bytes.NewReader(c.in[n:])
	client := &errorKeeper{Reader: io.MultiReader(buffered, c)}
	r := bufio.NewReader(client)
	switch read, err := io.CopyN(io.Discard, httputil.NewChunkedReader(r), maxBody+1); {
	case client.err != nil: // the client is gone or too slow
		return 0, 0, client.err
	case err == nil:
		return n, read, nil
	case err != io.EOF:
		return 0, 0, badRequest("body: must have chunks, each after a line with its size in hexadecimal")
	}
	// The trailer has fields up to an empty line. They are ignored, but each has to be one: a proxy that
	// reads a malformed line otherwise may see the end of the request elsewhere.
	for size := 0; ; {
		line, err := r.ReadSlice('\n')
		switch size += len(line); {
		case client.err != nil:
			return 0, 0, client.err
		case err != nil, size > maxHead:
			return 0, 0, badRequest("trailer of the body: at most " + strconv.Itoa(maxHead) + " bytes")
		}
		field, ended := bytes.CutSuffix(line, []byte("\r\n"))
		if ended && len(field) == 0 {
			break
		}
		name, value, ok := bytes.Cut(field, []byte(":"))
		if !ended || !ok || !isToken(name) || !validValue(value) {
			return 0, 0, badRequest("trailer of the body: each line must be NAME: VALUE")
		}
	}
	next, _ := r.Peek(r.Buffered()) // the beginning of the next request
	if buffered.Len() > 0 {
		return len(c.in) - buffered.Len() - len(next), 0, nil
	}
	c.in = append(c.in[:n], next...)
	return n, 0, nil
}

// An errorKeeper keeps the error that ended the reading.
type errorKeeper struct {
	io.Reader
	err error
}

func (k *errorKeeper) Read(b []byte) (int, error) {
	n, err := k.Reader.Read(b)
	if n == 0 {
		k.err = err
	}
	return n, err
}

// batch returns the buffers of the current batch, or begins a batch.
func (c *conn) batch() *buffers {
	if c.b == nil {
		c.b, c.served = c.s.buffers.Get().(*buffers), 0
		c.b.out = c.b.out[:0]
	}
	return c.b
}

// serveRequest adds the reply to the batch, and sends the batch if it is full. more says whether
// the connection may have another request.
func (c *conn) serveRequest(h *head, closing bool) (more bool, err error) {
	b := c.batch()
	b.setCall(h, c.remote, c.via)
	if !c.s.Tracker.AtOnce(&b.call) { // the store may be slow, and earlier replies must not wait for it
		if err := c.write(b.out); err != nil {
			return false, err
		}
		b.out, c.served = b.out[:0], 0
		if c.turn.end() {
			defer c.turn.begin()
		}
	}
	now := time.Now()
	more, c.stream = c.s.serveCall(b, h, now, closing)
	c.s.latency.observe(time.Since(now))
	if c.served++; more && c.served < maxBatch && len(b.out) < maxBatchBytes {
		return true, nil
	}
	if err := c.flush(); err != nil || !more {
		return false, err
	}
	runtime.Gosched()
	return true, nil
}

// sendRefusal replies to a request that is malformed. The caller must end the connection.
func (c *conn) sendRefusal(reason badRequest) {
	c.s.appendRefusal(c.batch(), c.in, c.remote, c.via, reason, time.Now())
	if c.flush() == nil {
		c.linger()
	}
}

// tls says whether the connection is over TLS.
func (c *conn) tls() bool {
	for _, nc := range [...]net.Conn{c.nc, c.turn.Conn} {
		if _, ok := nc.(interface{ NetConn() net.Conn }); ok {
			return true
		}
	}
	return false
}

// system returns the operating system's connection, also under TLS. It returns nil if there is
// none.
func (c *conn) system() syscall.Conn {
	nc := c.turn.Conn
	if t, ok := nc.(interface{ NetConn() net.Conn }); ok {
		nc = t.NetConn()
	}
	sc, _ := nc.(syscall.Conn)
	return sc
}
