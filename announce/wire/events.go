package wire

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"net/netip"
	"strconv"
	"time"
)

// Bounds of an event stream. A tracker serves tracks of at most 10,000 peers as streams.
const (
	maxLine  = 4 << 10
	maxEvent = 10_000 * 64 // bytes of its lines; "data: " and an endpoint have 54 at most
	maxEpoch = 64
	MaxRetry = time.Minute
)

// EventReader reads server-sent events (the WHATWG HTML standard, 9.2.5 and 9.2.6) as a tracker
// sends them: each data line of an event is one endpoint.
type EventReader struct {
	r     *bufio.Reader
	begun bool
	cr    bool // the last line ended in CR: an LF belongs to it
	buf   []byte
	// Epoch is that of the last id, "" without one.
	Epoch string
	// Retry is how long to wait after the end, as the tracker last said; -1 if it has not.
	Retry time.Duration
}

func NewEventReader(r io.Reader) *EventReader {
	return &EventReader{r: bufio.NewReader(r), Retry: -1}
}

// StreamEvent is one event. Peers that nobody could dial are not in it.
type StreamEvent struct {
	Name  string
	Peers []netip.AddrPort
}

var (
	ErrLongLine  = errors.New("event stream: line longer than " + strconv.Itoa(maxLine) + " bytes")
	ErrLongEvent = errors.New("event stream: event longer than " + strconv.Itoa(maxEvent) + " bytes")
)

// Next returns the next event that has data. An event that the end cuts off is none.
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
			return ev, ErrLongEvent
		}
		field, value, _ := bytes.Cut(line, []byte(":"))
		value = bytes.TrimPrefix(value, []byte(" "))
		switch string(field) {
		case "event":
			ev.Name = string(value)
		case "data":
			data = true
			if p, err := netip.ParseAddrPort(string(value)); err == nil && usable(Canonical(p), 1) {
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

// line returns the next line without its end: CR LF, LF or CR.
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
			return nil, ErrLongLine
		default:
			e.buf = append(e.buf, b)
		}
	}
}
