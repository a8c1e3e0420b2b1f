package server

import (
	"bytes"
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"runtime"
	"strconv"
	"time"

	"ntrack/tracker"
)

// conn is one connection with a goroutine of its own.
type conn struct {
	s         *Server
	nc        net.Conn
	remote    netip.AddrPort
	unix      bool // there is no remote
	admission admission
	waiter    waiter // where it has no request
	waits     bool   // it has had none since it came
	// until is the deadline set last. It is moved only once a good part of it is used up: to set
	// one costs as much as to parse a request.
	until  time.Time
	takeBy time.Time // the deadline for writing, until which the client has to take something
	begun  bool      // the deadline is that of a request
	in     []byte    // read and not yet answered
	o      *output   // the replies of this turn; nil where there are none
	turn   int       // how many
	// owed is a reply that another way could not send, last that the connection ends with it.
	owed   []byte
	last   bool
	stream *tracker.Stream // the last reply, if it is one
	reader *reader         // of that
}

func (c *conn) serve() {
	in := c.s.inputs.Get().(*[]byte)
	c.in = append((*in)[:0], c.in...)
	defer func() {
		if p := recover(); p != nil {
			c.panicked(p)
			_ = c.flush()
		} else if in != nil {
			*in = c.in
			c.s.inputs.Put(in)
		}
		if c.stream != nil {
			c.stream.Close()
		}
		c.s.release(c.remote, c.admission)
		_ = c.nc.Close()
		c.s.mu.Lock()
		delete(c.s.open, c)
		c.s.mu.Unlock()
		c.s.active.Done()
	}()
	// Whoever connects has something to ask; whom another way has answered may idle.
	c.deadline(c.owed == nil)
	err := c.deliver(c.owed)
	if c.last && err == nil {
		c.linger()
	}
	if c.last || err != nil {
		return
	}
	c.owed = nil
	var h head
	for {
		n, err := c.readHead()
		if err != nil {
			if refused, ok := err.(refusal); ok {
				c.refuse(refused)
			}
			return
		}
		if err := h.parse(c.in[:n]); err != nil {
			c.refuse(refusal(err.Error()))
			return
		}
		used, left, err := c.drain(&h, n)
		if why, ok := err.(refusal); ok {
			c.refuse(why)
		}
		if err != nil {
			return
		}
		more, err := c.answer(&h, !h.keepAlive || left > 0)
		switch {
		case err != nil:
			return
		case c.stream != nil:
			*in = c.in
			c.s.inputs.Put(in)
			in, c.in = nil, nil
			c.pump()
			return
		case !more: // one that has asked for the end, and sent nothing else, sends no more
			if h.keepAlive || left > 0 || used < len(c.in) {
				c.linger()
			}
			return
		}
		c.in = c.in[:copy(c.in, c.in[used:])]
		c.begun = false
	}
}

func (c *conn) panicked(p any) { c.s.panicked(c.remote, p) }

// readHead reads until c.in begins with a whole head and returns how long that is.
func (c *conn) readHead() (int, error) {
	c.deadline(len(c.in) > 0) // what is here already was pipelined
	for searched := 0; ; {
		c.in = c.in[:copy(c.in, skipEmptyLines(c.in))]
		if len(c.in) > 0 && !isToken(c.in[:1]) && c.in[0] != '\r' {
			return 0, refusal("no HTTP request") // a TLS client, mostly: tell it before it waits
		}
		if n := headEnd(c.in, searched); n > 0 {
			if n > maxHead {
				return 0, refusal("request line and headers: at most " + strconv.Itoa(maxHead) + " bytes")
			}
			return n, nil
		}
		searched = len(c.in)
		if searched > maxHead {
			return 0, refusal("request line and headers: at most " + strconv.Itoa(maxHead) + " bytes")
		}
		var err error
		if searched > 0 {
			c.deadline(true)
			err = c.read()
		} else {
			err = c.wait()
		}
		if err == io.EOF && len(c.in) > 0 {
			err = refusal("request cut short")
		}
		if err != nil {
			return 0, err
		}
	}
}

// wait reads the first bytes of a request. Until they are there the connection can be evicted. One
// that was new then gets an answer.
func (c *conn) wait() error {
	if !c.waits {
		if c.waiter.evicted { // but a request came all the same
			return ErrClosed
		}
		c.waiter.owner = c
		c.s.idle.push(&c.waiter, time.Now())
	}
	err := error(ErrClosed)
	if !c.waiter.unlinked() && !c.s.ending.Load() {
		err = c.read()
	}
	c.waiter.unlink()
	c.waits = false
	if err != nil && c.waiter.evicted && !c.waiter.in.answered && !c.s.ending.Load() {
		if c.deliver([]byte(tooMany)) == nil {
			c.linger()
		}
	}
	return err
}

// evict ends the wait for a request.
func (c *conn) evict() { _ = c.nc.SetReadDeadline(time.Unix(1, 0)) }

// read reads what there is, behind what c.in has.
func (c *conn) read() error {
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

// Read reads from the client. If this process was stopped, it reads what has come meanwhile before
// the deadline counts.
func (c *conn) Read(b []byte) (int, error) {
	for {
		n, err := c.nc.Read(b)
		if n > 0 || !errors.Is(err, os.ErrDeadlineExceeded) || time.Since(c.until) < late || c.s.ending.Load() {
			return n, err
		}
		c.until = time.Now().Add(late)
		_ = c.nc.SetReadDeadline(c.until)
	}
}

// deadline gives a request that has begun its time, once, or an idle connection its own.
func (c *conn) deadline(begun bool) {
	if c.begun {
		return
	}
	now := time.Now()
	if c.begun = begun; begun {
		c.until = now.Add(c.s.Timeout)
	} else {
		// A little more than Idle, so that it need not be moved for every request.
		if left := c.until.Sub(now); c.s.Idle <= left && left <= c.s.Idle*9/8 {
			return
		}
		c.until = now.Add(c.s.Idle * 9 / 8)
	}
	c.takeBy = c.until
	_ = c.nc.SetDeadline(c.until)
}

// proceed is for a client that waits for it before it sends a body.
const proceed = "HTTP/1.1 100 Continue\r\n\r\n"

// drain reads what follows a head of n bytes and belongs to the request, and ignores it. It returns
// how much of c.in is used up, and how much of the body is left because it is too much.
func (c *conn) drain(h *head, n int) (used int, left int64, err error) {
	here := min(h.length, int64(len(c.in)-n))
	used, left = n+int(here), h.length-here
	if left == 0 && !h.chunked {
		return used, 0, nil
	}
	if err := c.flush(); err != nil {
		return 0, 0, err
	}
	if h.chunked {
		return c.drainChunks(h, n)
	}
	if h.expect {
		if err := c.deliver([]byte(proceed)); err != nil {
			return 0, 0, err
		}
	}
	c.deadline(true)
	read, err := io.CopyN(io.Discard, c, min(left, maxBody))
	return used, left - read, err
}

// output is where the replies of this turn are.
func (c *conn) output() *output {
	if c.o == nil {
		c.o, c.turn = c.s.outputs.Get().(*output), 0
		c.o.out = c.o.out[:0]
	}
	return c.o
}

// answer asks the tracker. The reply waits for the others of this turn, but they do not wait for a
// store that may be slow. It says whether the connection goes on.
func (c *conn) answer(h *head, close bool) (more bool, err error) {
	o := c.output()
	o.ask(h, c.remote)
	o.call.Unix = c.unix
	if !c.s.Tracker.Prompt(&o.call) {
		if err := c.flush(); err != nil {
			return false, err
		}
		o = c.output()
		o.ask(h, c.remote)
		o.call.Unix = c.unix
	}
	more, c.stream = c.s.answer(o, h, time.Now(), close)
	if c.turn++; more && c.turn < maxAnswers && len(o.out) < maxReplies {
		return true, nil
	}
	if err := c.flush(); err != nil || !more {
		return false, err
	}
	runtime.Gosched()
	return true, nil
}

// refuse answers what is no request that a tracker could see, as far as possible in the form that
// the client asked for.
func (c *conn) refuse(why refusal) {
	lines := c.in[:bytes.LastIndexByte(c.in, '\n')+1]
	if len(lines) == 0 {
		lines = c.in
	}
	var h head
	_ = h.parse(lines[:min(len(lines), maxHead)])
	o := c.output()
	o.ask(&h, c.remote)
	var resp tracker.Response
	resp, o.body = c.s.Tracker.Refuse(&o.call, string(why), o.body[:0])
	c.s.reply(o, &resp, &h, time.Now(), true)
	if c.flush() == nil {
		c.linger()
	}
}

// flush sends the replies of this turn.
func (c *conn) flush() error {
	o := c.o
	if o == nil {
		return nil
	}
	c.o = nil
	err := c.deliver(o.out)
	if o.small() {
		o.call = tracker.Call{}
		c.s.outputs.Put(o)
	}
	return err
}

// deliver writes b, and gives up a client that takes nothing of it for as long as Timeout. That is
// looked at a few times meanwhile, as progress is only seen there.
func (c *conn) deliver(b []byte) error {
	_, tls := c.nc.(interface{ NetConn() net.Conn })
	step := c.s.Timeout / 16
	if tls { // where a write that was cut short is the last
		step = c.s.Timeout
	}
	now := time.Now()
	for since := now; len(b) > 0; {
		end := since.Add(c.s.Timeout)
		least, most := earlier(now.Add(step), end), earlier(now.Add(2*step), end)
		if c.takeBy.Before(least) || c.takeBy.After(most) {
			c.takeBy = most // not for every write: it costs as much as to parse a request
			_ = c.nc.SetWriteDeadline(most)
		}
		n, err := c.nc.Write(b)
		if err == nil {
			return nil
		}
		now, b = time.Now(), b[n:]
		switch {
		case tls || !errors.Is(err, os.ErrDeadlineExceeded):
			return err
		case n > 0, now.Sub(c.takeBy) >= late:
			since = now
		case !now.Before(end):
			return err
		}
	}
	return nil
}

func earlier(a, b time.Time) time.Time {
	if a.Before(b) {
		return a
	}
	return b
}

// linger gives the client a moment to read the reply before the connection ends: a close with
// bytes unread would reset it and could take the reply with it.
func (c *conn) linger() {
	if c.half() {
		_, _ = io.CopyN(io.Discard, c.nc, 4*maxBody)
	}
}

// half ends what is sent to the client, and gives it a moment to end what it sends. It says whether
// there is a way to do that.
func (c *conn) half() bool {
	cw, ok := c.nc.(interface{ CloseWrite() error })
	if !ok || cw.CloseWrite() != nil {
		return false
	}
	_ = c.nc.SetReadDeadline(time.Now().Add(lingering))
	return true
}
