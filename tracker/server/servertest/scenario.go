package servertest

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"time"

	"ntrack/tracker"
)

// A scenario is one file: requests and the replies they must get, in order.
type scenario struct {
	About   string   `json:"about"`
	Tracker settings `json:"tracker"`
	Steps   []step   `json:"steps"`
}

// settings are those of the scenario's tracker. Zero is the default of each.
type settings struct {
	Interval int            `json:"interval"` // seconds; 60 if neither this nor MaxRate is set
	MaxRate  int            `json:"max_rate"` // announces per second; the interval follows the load
	Index    bool           `json:"index"`
	Token    string         `json:"token"`
	Proxies  []netip.Prefix `json:"proxies"`
	MaxWant  int            `json:"max_want"`
}

func (s settings) tracker() *tracker.Tracker {
	if s.Interval == 0 && s.MaxRate == 0 {
		s.Interval = 60
	}
	return &tracker.Tracker{
		Interval: time.Duration(s.Interval) * time.Second,
		MaxRate:  s.MaxRate,
		MaxWant:  s.MaxWant,
		Index:    s.Index,
		Token:    s.Token,
		Proxies:  s.Proxies,
	}
}

// A step is one request and the reply it must get. Or it is the bytes that must have come on a
// stream, which an earlier step has opened.
type step struct {
	At      int                `json:"at"` // seconds since the scenario began; 0 is the time of the step before
	From    source             `json:"from"`
	Reuse   bool               `json:"reuse"` // send on the connection of the step before
	Send    latin1             `json:"send"`
	Status  int                `json:"status"`
	Headers map[string]*string `json:"headers"`
	Body    *body              `json:"body"`
	Closed  bool               `json:"closed"`  // the tracker must close after the reply
	Stream  string             `json:"stream"`  // the name of the stream that Send opens or, without Send, that is checked
	HangUp  bool               `json:"hang_up"` // close the stream

	at    time.Duration     // At, with the default filled in
	texts map[string]string // of the scenario: the text of each "as"
}

// A source is where a connection comes from: an address, or a Unix socket, which has none.
type source struct {
	addr netip.AddrPort
	unix bool
}

func (s *source) UnmarshalText(text []byte) (err error) {
	if s.unix = string(text) == "unix"; !s.unix {
		s.addr, err = netip.ParseAddrPort(string(text))
	}
	return err
}

func (s source) String() string {
	if s.unix {
		return "a Unix socket"
	}
	return s.addr.String()
}

func load(file string) (*scenario, error) {
	data, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	s, err := parse(data)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	return s, nil
}

// parse is strict, because a misspelt field would check nothing.
func parse(data []byte) (*scenario, error) {
	s := new(scenario)
	if err := strict(data, s); err != nil {
		return nil, err
	}
	if err := s.check(); err != nil {
		return nil, err
	}
	return s, nil
}

func (s *scenario) check() error {
	if s.About == "" {
		return errors.New(`no "about": say which rule this is`)
	}
	if len(s.Steps) == 0 {
		return errors.New("no steps")
	}
	now, texts := 0, make(map[string]string)
	open := make(map[string]bool) // by the name of the stream
	for i := range s.Steps {
		st := &s.Steps[i]
		switch {
		case st.At != 0 && st.At < now:
			return fmt.Errorf("step %d: at %d is before the step before it, at %d", i+1, st.At, now)
		case len(st.Send) == 0 && st.Stream == "":
			return fmt.Errorf(`step %d: no "send"`, i+1)
		case len(st.Send) == 0 && (st.From != source{} || st.Status != 0 || st.Headers != nil || st.Reuse):
			return fmt.Errorf(`step %d: "send" is missing, or all but "at", "stream", "body", "closed" and "hang_up" is too much`, i+1)
		case len(st.Send) == 0 && !open[st.Stream]:
			return fmt.Errorf("step %d: no stream %q is open", i+1, st.Stream)
		case st.Stream != "" && st.Body == nil && !st.HangUp:
			return fmt.Errorf(`step %d: no "body" for the stream`, i+1)
		case len(st.Send) == 0: // all is well
		case st.HangUp:
			return fmt.Errorf(`step %d: "hang_up" is for streams that are open`, i+1)
		case st.Stream != "" && (open[st.Stream] || st.Reuse):
			return fmt.Errorf("step %d: stream %q needs a name and a connection of its own", i+1, st.Stream)
		case st.From == source{}:
			return fmt.Errorf(`step %d: no "from"`, i+1)
		case st.Status == 0:
			return fmt.Errorf(`step %d: no "status"`, i+1)
		case st.Reuse && i == 0:
			return fmt.Errorf("step %d: no connection yet to reuse", i+1)
		case st.Reuse && s.Steps[i-1].From != st.From:
			return fmt.Errorf("step %d: a reused connection cannot change its address", i+1)
		}
		if st.Stream != "" {
			open[st.Stream] = !st.HangUp && !st.Closed
		}
		st.texts = texts
		now = max(now, st.At)
		st.at = time.Duration(now) * time.Second
	}
	return nil
}

// latin1 is bytes written as a JSON string, each byte as one character from U+0000 to U+00FF. So a
// file can hold any bytes, and those that are text can be read.
type latin1 string

func (l *latin1) UnmarshalJSON(data []byte) error {
	var s string
	if err := json.Unmarshal(data, &s); err != nil {
		return err
	}
	b := make([]byte, 0, len(s))
	for _, r := range s {
		if r > 0xff {
			return fmt.Errorf("%q is not a byte: write the bytes of its encoding, each as one character", r)
		}
		b = append(b, byte(r))
	}
	*l = latin1(b)
	return nil
}

// strict decodes exactly one JSON value. It is an error if v does not have one of its fields.
func strict(data []byte, v any) error {
	d := json.NewDecoder(bytes.NewReader(data))
	d.DisallowUnknownFields()
	if err := d.Decode(v); err != nil {
		return err
	}
	if _, err := d.Token(); err != io.EOF {
		return errors.New("something follows the JSON value")
	}
	return nil
}
