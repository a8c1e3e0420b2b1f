package servertest

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/netip"
	"os"
	"strings"
	"testing/fstest"
	"time"

	"ntrack/tracker"
	"ntrack/tracker/store/memory"
)

// A scenario is one file: requests and the replies they must get, in order.
type scenario struct {
	About   string   `json:"about"`
	Tracker settings `json:"tracker"`
	Steps   []step   `json:"steps"`
}

// settings configure the scenario's tracker. A zero field means the tracker's default, unless its
// comment says something else.
type settings struct {
	Interval int            `json:"interval"` // seconds; 60 if neither this nor MaxRate is set
	MaxRate  int            `json:"max_rate"` // announces per second; the tracker lengthens its interval to stay below it
	Index    bool           `json:"index"`
	Page     bool           `json:"page"` // for people
	Token    string         `json:"token"`
	Deny     []string       `json:"deny"` // lines of the list of keys and networks that the tracker refuses
	Proxies  []netip.Prefix `json:"proxies"`
	MaxWant  int            `json:"max_want"`

	// MaxPerAddr limits the peers of one address.
	MaxPerAddr int `json:"max_per_addr"`
}

func (s settings) tracker() *tracker.Tracker {
	denial, err := tracker.ParseDenial(strings.Join(s.Deny, "\n"))
	if err != nil {
		panic(err)
	}
	if s.Interval == 0 && s.MaxRate == 0 {
		s.Interval = 60
	}
	table := memory.New()
	table.Limits.MaxPerAddr = s.MaxPerAddr
	var tokens []string
	if s.Token != "" {
		tokens = []string{s.Token}
	}
	var page fs.FS
	if s.Page {
		page = fstest.MapFS{"index.html": {Data: []byte("<!DOCTYPE html>")}}
	}
	return &tracker.Tracker{
		Page:     page,
		Store:    table,
		Interval: time.Duration(s.Interval) * time.Second,
		MaxRate:  s.MaxRate,
		MaxWant:  s.MaxWant,
		Index:    s.Index,
		Tokens:   tokens,
		Denial:   denial,
		Proxies:  s.Proxies,
	}
}

// A step with Send is one request and the reply that it must get. A step without Send checks what
// the server has sent since the last check on a stream that an earlier step opened.
type step struct {
	At       int              `json:"at"` // seconds since the scenario began; 0 means at once after the previous step
	From     origin           `json:"from"`
	Reuse    bool             `json:"reuse"` // send on the connection of the previous step
	Send     latin1           `json:"send"`
	Repeat   repeat           `json:"repeat"`    // send once for each number, on one connection while the server keeps it open
	InPieces bool             `json:"in_pieces"` // send each byte by itself
	Status   int              `json:"status"`
	Headers  map[string]*body `json:"headers"` // nil: the header must not be there
	Body     *body            `json:"body"`
	Closed   bool             `json:"closed"`  // the server must close the connection after the reply or the stream
	Stream   string           `json:"stream"`  // the name of the stream that Send opens; without Send, of the stream to check
	HangUp   bool             `json:"hang_up"` // close the stream after the check
	// HalfClose closes the sending side of the connection: after Send, or after the check of a stream.
	HalfClose bool `json:"half_close"`

	start time.Duration     // At, with the default filled in
	sends []latin1          // Send, or what Repeat makes of it
	texts map[string]string // the text of each "as" part by its name; all steps share the map
}

// An origin is where a connection comes from: an address, or a Unix socket, which has none.
type origin struct {
	addr netip.AddrPort
	unix bool
}

func (o *origin) UnmarshalText(text []byte) (err error) {
	if o.unix = string(text) == "unix"; !o.unix {
		o.addr, err = netip.ParseAddrPort(string(text))
	}
	return err
}

func (o origin) String() string {
	if o.unix {
		return "a Unix socket"
	}
	return o.addr.String()
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
	if err := s.prepare(); err != nil {
		return nil, err
	}
	return s, nil
}

// prepare checks s and fills in the fields of its steps that are not in the file.
func (s *scenario) prepare() error {
	if s.About == "" {
		return errors.New(`no "about": say which rule this is`)
	}
	if len(s.Steps) == 0 {
		return errors.New("no steps")
	}
	now, texts := 0, make(map[string]string)
	open := make(map[string]bool) // streams by name
	for i := range s.Steps {
		st := &s.Steps[i]
		switch sends := len(st.Send) > 0; {
		case st.At != 0 && st.At < now:
			return fmt.Errorf(`step %d: "at" is %d, but the previous step is at %d`, i+1, st.At, now)
		case !sends && st.Stream == "":
			return fmt.Errorf(`step %d: no "send"`, i+1)
		case !sends && (st.From != origin{} || st.Status != 0 || st.Headers != nil || st.Reuse || st.InPieces || st.Repeat != repeat{}):
			return fmt.Errorf(`step %d: without "send" a step may only have "at", "stream", "body", "closed", "hang_up" and "half_close"`, i+1)
		case !sends && !open[st.Stream]:
			return fmt.Errorf("step %d: no stream %q is open", i+1, st.Stream)
		case st.Stream != "" && st.Body == nil && !st.HangUp && !st.HalfClose:
			return fmt.Errorf(`step %d: no "body" for the stream`, i+1)
		case !sends: // the other rules are for steps that send
		case st.HangUp:
			return fmt.Errorf(`step %d: "hang_up" is for streams that are open`, i+1)
		case st.Stream != "" && (open[st.Stream] || st.Reuse):
			return fmt.Errorf("step %d: stream %q needs a name and a connection of its own", i+1, st.Stream)
		case st.Repeat != repeat{} && (st.Stream != "" || st.Reuse):
			return fmt.Errorf("step %d: a repeated step needs a connection of its own, and opens no stream", i+1)
		case st.From == origin{}:
			return fmt.Errorf(`step %d: no "from"`, i+1)
		case st.Status == 0:
			return fmt.Errorf(`step %d: no "status"`, i+1)
		case st.Reuse && i == 0:
			return fmt.Errorf("step %d: no connection yet to reuse", i+1)
		case st.Reuse && s.Steps[i-1].From != st.From:
			return fmt.Errorf("step %d: a reused connection cannot change its address", i+1)
		}
		var err error
		if st.sends, err = st.Repeat.texts(st.Send); err != nil {
			return fmt.Errorf("step %d: %w", i+1, err)
		}
		if st.Stream != "" {
			open[st.Stream] = !st.HangUp && !st.Closed
		}
		for name, value := range st.Headers {
			if value != nil && len(*value) == 0 {
				return fmt.Errorf("step %d: no value for the header %s", i+1, name)
			}
		}
		st.texts = texts
		now = max(now, st.At)
		st.start = time.Duration(now) * time.Second
	}
	return nil
}

// latin1 is bytes. In JSON it is a string with one character from U+0000 to U+00FF for each byte.
// So a file can have any bytes, and a person can still read its ASCII.
type latin1 string

func (l *latin1) UnmarshalJSON(data []byte) error {
	var s string
	if err := json.Unmarshal(data, &s); err != nil {
		return err
	}
	b := make([]byte, 0, len(s))
	for _, r := range s {
		if r > 0xff {
			return fmt.Errorf("%q is not a byte: write each byte of its encoding as one character, U+0000 to U+00FF", r)
		}
		b = append(b, byte(r))
	}
	*l = latin1(b)
	return nil
}

// strict decodes exactly one JSON value into v. A field that v does not have is an error.
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
