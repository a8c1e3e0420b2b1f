package wire

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"strconv"
	"time"
)

// Bounds of an event stream. Tracks of more than 10,000 peers have no streams.
const (
	maxLine  = 4 << 10
	maxEvent = 10_000 * 64 // bytes in all its lines; "data: " and an endpoint have 54 at most
	maxEpoch = 64
	// MaxRetry is the longest time to wait after the end of a stream.
	MaxRetry = time.Minute
)

// An EventReader reads server-sent events (WHATWG HTML, 9.2.5 and 9.2.6) as an [EventWriter] writes
// them: each data line of an event is one endpoint.
type EventReader struct {
	r     *bufio.Reader
	begun bool
	cr    bool // the last line ended in CR, and an LF after it belongs to that end
	buf   []byte
	// Epoch is the epoch in the last id, "" before the first.
	Epoch string
	// Retry is the last retry, 0 to [MaxRetry], and -1 before the first.
	Retry time.Duration
}

// NewEventReader returns a reader of the stream r.
func NewEventReader(r io.Reader) *EventReader {
	return &EventReader{r: bufio.NewReader(r), Retry: -1}
}

// A StreamEvent is one event of a stream. Peers that nobody could dial are left out.
type StreamEvent struct {
	Name  string // you, peers, join, leave, shared or unshared
	Peers []netip.AddrPort
}

// A LongEventError is a line or an event that exceeds the bounds of a stream.
type LongEventError struct {
	what string
	most int
}

func (e *LongEventError) Error() string {
	return fmt.Sprintf("event stream: %s longer than %d bytes", e.what, e.most)
}

// Next returns the next event that has data. The error at the end of the stream is that of its
// reader; an event without its last line is dropped. A [*LongEventError] ends the stream too.
func (e *EventReader) Next() (StreamEvent, error) {
	var ev StreamEvent
	size, data := 0, false
	for {
		line, err := e.line()
		if err != nil {
			return ev, err
		}
		if len(line) == 0 {
			if data {
				return ev, nil
			}
			ev, size = StreamEvent{}, 0
			continue
		}
		if line[0] == ':' {
			continue
		}
		if size += len(line) + 1; size > maxEvent {
			return ev, &LongEventError{"event", maxEvent}
		}
		field, value, _ := bytes.Cut(line, []byte(":"))
		value = bytes.TrimPrefix(value, []byte(" "))
		switch string(field) {
		case "event":
			ev.Name = string(value)
		case "data":
			data = true
			if p, err := netip.ParseAddrPort(string(value)); err == nil && canDial(Canonical(p), 1) {
				ev.Peers = append(ev.Peers, Canonical(p))
			}
		case "id":
			if epoch, _, ok := bytes.Cut(value, []byte("-")); ok && len(epoch) <= maxEpoch && bytes.IndexByte(value, 0) < 0 {
				e.Epoch = string(epoch)
			}
		case "retry":
			if ms, err := strconv.ParseUint(string(value), 10, 64); err == nil || errors.Is(err, strconv.ErrRange) {
				e.Retry = time.Duration(min(ms, uint64(MaxRetry.Milliseconds()))) * time.Millisecond
			}
		}
	}
}

// line returns the next line without its end, which is CR LF, LF or CR.
func (e *EventReader) line() ([]byte, error) {
	if !e.begun {
		e.begun = true
		if bom, err := e.r.Peek(3); err == nil && string(bom) == "\ufeff" {
			_, _ = e.r.Discard(3)
		}
	}
	e.buf = e.buf[:0]
	for {
		b, err := e.r.ReadByte()
		if err != nil {
			return nil, err
		}
		after := e.cr
		e.cr = b == '\r'
		switch {
		case b == '\n' && after:
		case b == '\n' || b == '\r':
			return e.buf, nil
		case len(e.buf) == maxLine:
			return nil, &LongEventError{"line", maxLine}
		default:
			e.buf = append(e.buf, b)
		}
	}
}

// An EventWriter appends the events of one stream to a buffer. It numbers them from 0.
type EventWriter struct {
	// Epoch names the life of the tracker's table. A client that sees another one knows that the
	// tracker may have forgotten peers. It has at most 64 bytes and no '-'.
	Epoch string
	seq   int64
}

// AppendYou appends the first event of a stream. you is the endpoint that is listed, or has port 0
// if none is. retry is how long the client has to wait after the stream has ended.
func (w *EventWriter) AppendYou(dst []byte, you netip.AddrPort, retry time.Duration) []byte {
	dst = appendRetryLine(w.begin(dst, "you"), retry)
	dst = append(dst, "data: "...)
	if you.Port() != 0 {
		dst = you.AppendTo(dst)
	}
	return append(dst, "\n\n"...)
}

// AppendEvent appends an event with the endpoints of peers.
func (w *EventWriter) AppendEvent(dst []byte, name string, peers ...Peer) []byte {
	dst = w.begin(dst, name)
	for i := range peers {
		dst = append(peers[i].Endpoint.AppendTo(append(dst, "data: "...)), '\n')
	}
	if len(peers) == 0 {
		dst = append(dst, "data: \n"...) // readers ignore an event without data
	}
	return append(dst, '\n')
}

func (w *EventWriter) begin(dst []byte, name string) []byte {
	dst = append(append(dst, "event: "...), name...)
	dst = append(append(dst, "\nid: "...), w.Epoch...)
	dst = strconv.AppendInt(append(dst, '-'), w.seq, 10)
	w.seq++
	return append(dst, '\n')
}

// AppendRetry appends how long the client has to wait after the stream has ended. It goes between
// two events.
func (w *EventWriter) AppendRetry(dst []byte, retry time.Duration) []byte {
	return append(appendRetryLine(dst, retry), '\n')
}

func appendRetryLine(dst []byte, retry time.Duration) []byte {
	return append(strconv.AppendInt(append(dst, "retry: "...), retry.Milliseconds(), 10), '\n')
}

// AppendHeartbeat appends a comment, which shows that the stream is alive. It goes between two
// events.
func (w *EventWriter) AppendHeartbeat(dst []byte) []byte { return append(dst, ":\n\n"...) }
