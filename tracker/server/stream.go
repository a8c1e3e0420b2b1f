package server

import (
	"sync"
	"time"
)

// defaultStreamTCPTimeout is how long the client of a stream may leave bytes unacknowledged. After
// that the system ends the connection, because packets seem to be lost. Heartbeats make sure that
// there are bytes to acknowledge.
const defaultStreamTCPTimeout = 45 * time.Second

// serveStream sends the event stream that the last reply opened, until the stream or the connection
// ends. It reads, because a read ends when the client is gone. While there are events to send,
// another goroutine writes them.
func (c *conn) serveStream() {
	if raw := c.system(); raw != nil {
		setTCPUserTimeout(raw, c.s.streamTCPTimeout)
		state := func() (sendState, bool) { return getSendState(raw) }
		c.stall = &stallDetector{state: state, limit: c.s.Timeout, stalled: func() { _ = c.nc.Close() }}
		defer c.stall.stop()
		c.stall.afterWrite()
	}
	c.turn.end() // from now on two goroutines use the connection
	_ = c.nc.SetReadDeadline(time.Time{})
	c.stream.KeepAlive()
	c.writeEvents()
	var ignored [64]byte // after its request the client may send up to maxBody
	for n := 0; n < maxBody; {
		k, err := c.nc.Read(ignored[:])
		if n += k; err != nil {
			return
		}
	}
}

// Wake starts a goroutine that sends events. The stream calls it when it has events, but not after
// Close.
func (c *conn) Wake() {
	c.s.active.Add(1)
	go func() {
		defer c.s.active.Done()
		defer func() {
			if p := recover(); p != nil {
				c.s.logPanic(c.remote, p)
				_ = c.nc.Close()
			}
		}()
		c.writeEvents()
	}()
}

// writeEvents sends the events of the stream until there are no more for now. If the stream has
// ended, it ends the connection.
func (c *conn) writeEvents() {
	b := c.s.buffers.Get().(*buffers)
	for {
		out, live := c.nextEvents(b.out[:0])
		b.out = out
		var err error
		if len(out) > 0 {
			if err = c.write(out); c.stall != nil {
				c.stall.afterWrite()
			}
		}
		if err != nil || !live && !c.endSending() {
			_ = c.nc.Close()
		}
		if err != nil || !live || len(out) == 0 {
			break
		}
	}
	if b.reusable() {
		c.s.buffers.Put(b)
	}
}

func (c *conn) nextEvents(dst []byte) (_ []byte, live bool) {
	c.s.turns.begin()
	defer c.s.turns.end()
	return c.stream.Append(dst, c)
}

// A sendState is what the system knows about the bytes sent on a connection.
type sendState struct {
	pending    bool          // some bytes are not acknowledged yet
	acked      uint64        // how many bytes were acknowledged
	sinceHeard time.Duration // since the last acknowledgement, even if that had no new bytes
}

// A stallDetector ends the stream of a client that is connected but does not read. Writes do not
// find such a client, because the system buffers many events before a write blocks.
type stallDetector struct {
	state   func() (s sendState, ok bool)
	limit   time.Duration // how long the client may read nothing
	stalled func()        // is called when the client has read nothing for limit

	mu       sync.Mutex
	timer    *time.Timer
	checking bool // timer is running
	stopped  bool
	acked    uint64
	since    time.Time // acked has not changed since then
}

// afterWrite starts the checks. They go on until all bytes are acknowledged.
func (d *stallDetector) afterWrite() {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.checking || d.stopped {
		return
	}
	s, ok := d.state()
	if !ok {
		return
	}
	d.checking, d.acked, d.since = true, s.acked, time.Now()
	if d.timer == nil {
		d.timer = time.AfterFunc(d.limit/4, d.check)
	} else {
		d.timer.Reset(d.limit / 4)
	}
}

// check ends the stream of a client whose system sends acknowledgements, but for no new bytes. If
// no acknowledgements arrive at all, packets may be lost: then TCP_USER_TIMEOUT ends the
// connection.
func (d *stallDetector) check() {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.stopped {
		return
	}
	s, ok := d.state()
	now := time.Now()
	switch {
	case !ok || !s.pending:
		d.checking = false
		return
	case s.acked != d.acked || s.sinceHeard >= d.limit:
		d.acked, d.since = s.acked, now
	case now.Sub(d.since) >= d.limit:
		d.stalled()
		d.checking = false
		return
	}
	d.timer.Reset(d.limit / 4)
}

func (d *stallDetector) stop() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.stopped = true
	if d.timer != nil {
		d.timer.Stop()
	}
}
