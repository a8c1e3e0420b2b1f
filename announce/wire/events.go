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

// Limits of an event stream. Trackers do not stream tracks of more than 10,000 peers.
const (
	maxLine  = 4 << 10     // bytes in one line
	maxEvent = 10_000 * 64 // bytes in all lines of one event; the line of a peer has at most 54
	maxEpoch = 64          // bytes in an epoch
	// MaxRetry is the longest time that a client waits after the end of a stream.
	MaxRetry = time.Minute
)

// An EventReader reads server-sent events (WHATWG HTML, 9.2.5 and 9.2.6) as [AppendYou] and
// [AppendEvent] write them.
type EventReader struct {
	r       *bufio.Reader
	started bool
	afterCR bool // the last byte was CR; if LF follows, both end the same line
	buf     []byte
	// Retry is the time in the last retry line, 0 to [MaxRetry], or -1 if there was none. The client has
	// to wait that long after the end of the stream.
	Retry time.Duration
}

// NewEventReader returns a reader of the stream r.
func NewEventReader(r io.Reader) *EventReader {
	return &EventReader{r: bufio.NewReader(r), Retry: -1}
}

// A StreamEvent is one event of a stream. Each of its peers can be dialled: Next leaves out the others.
type StreamEvent struct {
	Name  string // "you", "peers", "join", "leave", "shared" or "unshared": docs/PROTOCOL.md explains them
	Peers []netip.AddrPort
	// Epoch names the tracker's table, with "you" only. It is "" if the tracker has sent none of 1 to
	// 64 bytes. See [AppendYou].
	Epoch string
	// TTL is how long an announce holds, with "you" only, in whole seconds. It is 0 if the tracker has
	// not sent it.
	TTL time.Duration
	// Age is how long ago the tracker's table began, with "you" only, in whole seconds. It is 0 if the
	// tracker has not sent it.
	Age time.Duration
}

// A LongEventError means that a line or an event of a stream is too long.
type LongEventError struct {
	part  string // "line" or "event"
	limit int    // in bytes
}

func (e *LongEventError) Error() string {
	return fmt.Sprintf("event stream: %s longer than %d bytes", e.part, e.limit)
}

// Next returns the next event that has data. At the end of the stream it returns the error of the
// underlying reader, which is io.EOF after a normal end. An event that comes with an error is not
// complete: ignore it. After any error, [*LongEventError] too, do not call Next again.
func (e *EventReader) Next() (StreamEvent, error) {
	var ev StreamEvent
	size, lines := 0, 0 // lines are those of data
	for {
		line, err := e.line()
		if err != nil {
			return ev, err
		}
		if len(line) == 0 {
			if lines > 0 {
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
			const leastPort = 1
			lines++
			if ev.Name == "you" && lines > 1 { // a later version may add others
				if seconds, ok := digits(value); ok && lines == 2 {
					ev.TTL = duration(float64(seconds))
				} else if ok && lines == 3 {
					ev.Age = duration(float64(seconds))
				}
			} else if p, err := netip.ParseAddrPort(string(value)); err == nil && canDial(Canonical(p), leastPort) {
				ev.Peers = append(ev.Peers, Canonical(p))
			}
		case "id": // as in browsers, an id with a zero byte is ignored
			if len(value) <= maxEpoch && bytes.IndexByte(value, 0) < 0 {
				ev.Epoch = string(value)
			}
		case "retry":
			if ms, ok := digits(value); ok {
				e.Retry = time.Duration(min(ms, uint64(MaxRetry.Milliseconds()))) * time.Millisecond
			}
		}
	}
}

// digits reads a number. If it is too large for a uint64, digits returns the largest.
func digits(b []byte) (n uint64, ok bool) {
	n, err := strconv.ParseUint(string(b), 10, 64)
	return n, err == nil || errors.Is(err, strconv.ErrRange)
}

// line returns the next line without the CR LF, LF or CR at its end.
func (e *EventReader) line() ([]byte, error) {
	if !e.started {
		e.started = true
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
		afterCR := e.afterCR
		e.afterCR = b == '\r'
		switch {
		case b == '\n' && afterCR:
		case b == '\n' || b == '\r':
			return e.buf, nil
		case len(e.buf) == maxLine:
			return nil, &LongEventError{"line", maxLine}
		default:
			e.buf = append(e.buf, b)
		}
	}
}

// AppendYou appends the event you, the first event of a stream. epoch, of 1 to 64 bytes, names the
// tracker's table until the table is lost, for example in a restart. A client that sees a new epoch
// knows that the tracker may have forgotten peers. you is the endpoint under which the tracker lists
// the client, or has port 0 if it does not. ttl is how long an announce to the track holds now, in
// whole seconds. retry is how long the client has to wait after the stream has ended. age is how long
// ago the table began, in whole seconds; a negative age is not sent.
func AppendYou(dst []byte, epoch string, you netip.AddrPort, ttl, retry, age time.Duration) []byte {
	dst = append(append(dst, "event: you\nid: "...), epoch...)
	dst = append(appendRetryLine(append(dst, '\n'), retry), "data: "...)
	if you.Port() != 0 {
		dst = you.AppendTo(dst)
	}
	dst = strconv.AppendInt(append(dst, "\ndata: "...), seconds(ttl), 10)
	if age >= 0 {
		dst = strconv.AppendInt(append(dst, "\ndata: "...), int64(age/time.Second), 10)
	}
	return append(dst, "\n\n"...)
}

// AppendEvent appends an event with that name and the endpoints of peers.
func AppendEvent(dst []byte, name string, peers ...Peer) []byte {
	dst = append(append(append(dst, "event: "...), name...), '\n')
	for i := range peers {
		dst = append(peers[i].Endpoint.AppendTo(append(dst, "data: "...)), '\n')
	}
	if len(peers) == 0 {
		dst = append(dst, "data: \n"...) // readers ignore an event that has no data line
	}
	return append(dst, '\n')
}

// AppendRetry appends a new time that the client has to wait after the stream has ended. Call it only
// between two events.
func AppendRetry(dst []byte, retry time.Duration) []byte {
	return append(appendRetryLine(dst, retry), '\n')
}

func appendRetryLine(dst []byte, retry time.Duration) []byte {
	return append(strconv.AppendInt(append(dst, "retry: "...), retry.Milliseconds(), 10), '\n')
}

// AppendHeartbeat appends a comment, which shows that the connection is alive. Call it only between two
// events.
func AppendHeartbeat(dst []byte) []byte { return append(dst, ":\n\n"...) }
