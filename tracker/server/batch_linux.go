package server

import (
	"net/netip"
	"time"

	"ntrack/tracker"
)

// A stopReason says why a worker stops serving the requests of a connection.
type stopReason uint8

const (
	allServed  stopReason = iota
	batchFull             // other connections are served first
	incomplete            // only a part of the next request has arrived
	notPlain              // the next request needs a goroutine
	lastReply             // the connection ends with the last reply
	newStream             // the last reply is an event stream
	panicked              // the connection ends
)

// A batch is the requests of a connection that are served one after the other, and whose replies are sent
// in one write. It is used again for other connections.
type batch struct {
	head   head            // of the last request
	b      buffers         // b.out has the replies
	now    time.Time       // about now
	stream *tracker.Stream // which the last reply has opened; nil otherwise
}

// serve serves the requests at the beginning of in, at most a batch. It returns the bytes that are left,
// and why it stopped. A request with a large reply is served only as the first in a batch of a busy
// connection, so that other connections are served before it. Unless mayWait is true, serve serves only
// requests that the tracker answers at once.
func (t *batch) serve(s *Server, in []byte, remote netip.AddrPort, how via, wasBusy, mayWait bool) (rest []byte, why stopReason) {
	h, b, began := &t.head, &t.b, t.now
	b.out, t.stream = b.out[:0], nil
	defer func() {
		if p := recover(); p != nil {
			s.logPanic(remote, p)
			rest, why = nil, panicked
		}
	}()
	for served := 0; len(in) > 0; served++ {
		if mayWait && served > 0 {
			t.now = time.Now()
		}
		if served >= maxBatch || len(b.out) >= maxBatchBytes || t.now.Sub(began) > maxBatchTime {
			return in, batchFull
		}
		n := headEnd(in, 0)
		if n == 0 && len(in) <= maxHead && isToken(in[:1]) {
			return in, incomplete
		}
		if n == 0 || n > maxHead || h.parseHead(in[:n]) != nil || !h.plain() {
			return in, notPlain
		}
		if b.setCall(h, remote, how); !mayWait && !s.Tracker.AtOnce(&b.call) {
			return in, notPlain
		}
		if s.Tracker.Large(&b.call) && (!wasBusy || served > 0) {
			return in, batchFull
		}
		more, stream := s.serveCall(b, h, t.now, !h.keepAlive)
		switch in = in[n:]; {
		case stream != nil:
			t.stream = stream
			return in, newStream
		case !more:
			return in, lastReply
		}
	}
	return nil, allServed
}
