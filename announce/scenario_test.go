package announce_test

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"ntrack/announce"
)

// A scenario is what trackers do over time, and what a client has to report.
// testdata/vectors/README.md describes its form.
type scenario struct {
	About, Key string
	Port       uint16
	Trackers   []*timeline
	End        seconds
	Events     []*struct {
		Within              window
		Join, Leave, Shared parts
		seen                int
	}
}

// A timeline is what one tracker does over time, over one address family.
type timeline struct {
	Tracker, Connects string
	IPv6              bool
	Steps             []scriptStep
	Requests          []*struct {
		Within, Closed window
		Method, Target string
		Stream         *bool
	}

	t       *testing.T
	began   time.Time
	mu      sync.Mutex
	now     scriptStep // the last value of each field so far
	conns   map[*scriptConn]bool
	streams map[*scriptConn]bool
	muted   bool
	dials   int
}

// A scriptStep changes what the tracker does from the time At on.
type scriptStep struct {
	At            seconds
	Stream, Reply *answer
	Send          parts
	Connections   string
	Mute          *bool
}

// An answer is a status with a body, or the beginning of a stream if it has only text.
type answer struct {
	Status  int
	Headers map[string]string
	Body    parts
	Silent  bool
	text    parts
}

func (a *answer) UnmarshalJSON(b []byte) error {
	if b[0] != '{' {
		return strict(b, &a.text)
	}
	type plain answer
	return strict(b, (*plain)(a))
}

// A seconds is a time since the beginning of a scenario.
type seconds float64

func (s seconds) duration() time.Duration { return time.Duration(float64(s) * float64(time.Second)) }

// A window is the earliest and the latest time of something that has to happen.
type window [2]seconds

func (w window) has(d time.Duration) bool { return d >= w[0].duration() && d <= w[1].duration() }

// A parts is a text, an object that is sent as JSON, or a list of these. In a list, a text may be
// repeated, with a number in place of {n}.
type parts []string

func (x *parts) UnmarshalJSON(b []byte) error {
	var list []json.RawMessage
	switch b[0] {
	case '"':
		*x = append(*x, "")
		return json.Unmarshal(b, &(*x)[len(*x)-1])
	case '[':
		if err := json.Unmarshal(b, &list); err != nil {
			return err
		}
		for _, part := range list {
			if err := x.UnmarshalJSON(part); err != nil {
				return err
			}
		}
		return nil
	}
	var r struct {
		Text   string
		Repeat [2]int
	}
	if strict(b, &r) == nil && r.Repeat[1] > 0 {
		for n := r.Repeat[0]; n <= r.Repeat[1]; n++ {
			*x = append(*x, strings.ReplaceAll(r.Text, "{n}", strconv.Itoa(n)))
		}
		return nil
	}
	*x = append(*x, string(b)+"\n")
	return nil
}

func (x parts) String() string { return strings.Join(x, "") }

// strict decodes JSON without unknown fields.
func strict(b []byte, into any) error {
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	return d.Decode(into)
}

// A client reports what the scenarios of the vectors demand.
func TestClientScenarios(t *testing.T) {
	files, err := filepath.Glob("../testdata/vectors/client/watch-*.json")
	if err != nil || len(files) == 0 {
		t.Fatalf("no vectors: %v", err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".json"), func(t *testing.T) {
			data, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			var s scenario
			if err := strict(data, &s); err != nil {
				t.Fatal(err)
			}
			t.Log(s.About)
			synctest.Test(t, s.play)
		})
	}
}

// The client's addresses in a scenario.
const client4, client6 = "192.0.2.9", "2001:db8::9"

func (s *scenario) play(t *testing.T) {
	began := time.Now()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var at []announce.Tracker
	var running sync.WaitGroup
	for _, tr := range s.Trackers {
		a := named(t, tr.Tracker)
		if tr.Connects = cmp.Or(tr.Connects, a.HostPort()); !slices.Contains(at, a) {
			at = append(at, a)
		}
		tr.t, tr.began = t, began
		tr.conns, tr.streams = make(map[*scriptConn]bool), make(map[*scriptConn]bool)
		for len(tr.Steps) > 0 && tr.Steps[0].At == 0 {
			tr.do(tr.Steps[0])
			tr.Steps = tr.Steps[1:]
		}
		running.Go(func() {
			for _, step := range tr.Steps {
				if wait := step.At.duration() - time.Since(began); wait > 0 {
					select {
					case <-time.After(wait):
					case <-ctx.Done():
						return
					}
				}
				tr.do(step)
			}
		})
	}
	time.AfterFunc(s.End.duration(), cancel)
	var list, told []netip.AddrPort
	begun := false
	report := func(what, e string) {
		now := time.Since(began)
		e = strings.Replace(e, client4, "CLIENT", 1)
		for _, x := range s.Events {
			expected := map[string]parts{"join": x.Join, "leave": x.Leave, "shared": x.Shared}[what]
			if i := slices.Index(expected, e); i >= 0 && x.Within.has(now) {
				expected[i] = "seen"
				x.seen++
				return
			}
		}
		t.Errorf("at %v the client reported %s %s", now, what, e)
	}
	c := s.client()
	for ev, err := range c.Watch(ctx, at, announce.Request{Key: key(t, s.Key), Port: s.Port}) {
		if shared, ok := errors.AsType[*announce.SharedError](err); ok {
			report("shared", shared.Endpoint.String())
		}
		if err != nil {
			continue
		}
		// The first list is a join of each peer. After that, each change has its own event.
		list = ev.Peers
		if !begun {
			told, begun = slices.Clone(list), true
			for _, e := range told {
				report("join", e.String())
			}
		}
		switch ev.Type {
		case announce.EventJoin:
			report("join", ev.Peer.String())
			told = append(told, ev.Peer)
		case announce.EventLeave:
			report("leave", ev.Peer.String())
			told = slices.DeleteFunc(told, func(e netip.AddrPort) bool { return e == ev.Peer })
		}
	}
	if slices.SortFunc(told, netip.AddrPort.Compare); !slices.Equal(told, list) {
		t.Errorf("the events lead to %v, and the last list is %v", told, list)
	}
	for _, x := range s.Events {
		if all := len(x.Join) + len(x.Leave) + len(x.Shared); x.seen != all {
			t.Errorf("%d of %d events came from %vs to %vs: %.200s", x.seen, all, x.Within[0], x.Within[1], fmt.Sprint(x.Join, x.Leave, x.Shared))
		}
	}
	running.Wait()
	time.Sleep(time.Minute) // requests that were given up end
	for _, tr := range s.Trackers {
		tr.finish()
	}
}

// client returns a client with one address, or with one of each family.
func (s *scenario) client() *announce.Client {
	has6 := slices.ContainsFunc(s.Trackers, func(tr *timeline) bool { return tr.IPv6 })
	c := &announce.Client{Dial: func(ctx context.Context, network, to string) (net.Conn, error) {
		for _, tr := range s.Trackers {
			if tr.Connects == to && tr.IPv6 == (network == "tcp6") {
				return tr.dial(ctx)
			}
		}
		s.Trackers[0].t.Errorf("the client connects to %s", to)
		return nil, errors.New("no such tracker")
	}}
	if has6 {
		return announce.DialBoth(c)
	}
	return c
}

// A scriptConn is the client's end of a connection to a tracker.
type scriptConn struct {
	*pipeConn
	far   *pipeConn // the tracker's end
	reset atomic.Bool
	once  sync.Once
	ended chan struct{} // closed when the tracker ends the connection
}

// Read fails after a broken connection, as TCP does after a reset.
func (c *scriptConn) Read(b []byte) (int, error) {
	n, err := c.pipeConn.Read(b)
	if err == io.EOF && c.reset.Load() {
		err = errors.New("connection reset by peer")
	}
	return n, err
}

// end ends the connection from the tracker's side.
func (c *scriptConn) end(broken bool) {
	c.once.Do(func() {
		c.reset.Store(broken)
		close(c.ended)
		_ = c.far.Close()
	})
}

func (tr *timeline) dial(ctx context.Context) (net.Conn, error) {
	from := client4
	if tr.IPv6 {
		from = client6
	}
	tr.mu.Lock()
	defer tr.mu.Unlock()
	tr.dials++
	switch {
	case tr.now.Connections == "refuse":
		return nil, errors.New("connection refused")
	case tr.now.Connections == "lose", tr.dials > runaway:
		tr.mu.Unlock()
		<-ctx.Done()
		tr.mu.Lock()
		return nil, ctx.Err()
	}
	near, far := duplex(netip.AddrPortFrom(netip.MustParseAddr(from), uint16(20000+tr.dials)))
	c := &scriptConn{pipeConn: near, far: far, ended: make(chan struct{})}
	tr.conns[c] = true
	go tr.serve(c)
	return c, nil
}

// do takes one step.
func (tr *timeline) do(step scriptStep) {
	tr.mu.Lock()
	defer tr.mu.Unlock()
	if step.Stream != nil {
		tr.now.Stream = step.Stream
	}
	if step.Reply != nil {
		tr.now.Reply = step.Reply
	}
	if step.Mute != nil {
		tr.muted = *step.Mute
	}
	for c := range tr.streams {
		if len(step.Send) > 0 {
			_, _ = io.WriteString(c.far, tr.fill(step.Send))
		}
	}
	switch step.Connections {
	case "":
	case "accept":
		tr.now.Connections = ""
	case "refuse", "lose":
		tr.now.Connections = step.Connections
		fallthrough
	case "end", "break":
		for c := range tr.conns {
			c.end(step.Connections == "break" || step.Connections == "lose")
		}
	default:
		tr.t.Errorf("a step with connections %q", step.Connections)
	}
}

// fill replaces CLIENT by the client's address.
func (tr *timeline) fill(x parts) string {
	if tr.IPv6 {
		return strings.ReplaceAll(x.String(), "CLIENT", "["+client6+"]")
	}
	return strings.ReplaceAll(x.String(), "CLIENT", client4)
}

// serve answers the requests on one connection.
func (tr *timeline) serve(c *scriptConn) {
	defer func() {
		tr.mu.Lock()
		delete(tr.conns, c)
		delete(tr.streams, c)
		tr.mu.Unlock()
		c.end(false)
	}()
	for requests := bufio.NewReader(c.far); ; {
		r, err := http.ReadRequest(requests)
		if err != nil {
			return
		}
		closed := tr.note(r)
		tr.mu.Lock()
		reply := tr.now.Reply
		streams := wantsStream(r) && tr.now.Stream != nil
		if streams {
			reply = tr.now.Stream
		}
		if r.Method == http.MethodDelete {
			reply = &answer{Status: http.StatusNoContent}
		}
		tr.mu.Unlock()
		switch {
		case reply == nil:
			tr.t.Errorf("there is no reply to %s %s", r.Method, r.RequestURI)
			return
		case streams && reply.text != nil:
			tr.stream(c, requests, tr.fill(reply.text), closed)
			return
		case reply.Silent:
			_, _ = io.Copy(io.Discard, requests) // until one side ends the connection
			return
		}
		body := latin1(tr.fill(append(reply.Body, reply.text...)))
		head := fmt.Sprintf("HTTP/1.1 %d -\r\n", max(reply.Status, 200))
		ends := reply.Headers["Connection"] == "close" || reply.Headers["Content-Type"] == "text/event-stream"
		if r.Method != http.MethodDelete && reply.Headers["Content-Type"] != "text/event-stream" {
			head += fmt.Sprintf("Content-Length: %d\r\n", len(body))
		}
		for name, value := range reply.Headers {
			head += name + ": " + value + "\r\n"
		}
		if _, err := io.WriteString(c.far, head+"\r\n"+string(body)); err != nil || ends {
			return
		}
	}
}

// stream sends an event stream until one side ends it. It sends a heartbeat every 15 seconds.
func (tr *timeline) stream(c *scriptConn, rest io.Reader, begin string, closed window) {
	_, _ = io.WriteString(c.far, "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n"+begin)
	tr.mu.Lock()
	tr.streams[c] = true
	tr.mu.Unlock()
	left := make(chan struct{})
	go func() {
		_, _ = io.Copy(io.Discard, rest)
		if now := time.Since(tr.began); closed != (window{}) && !closed.has(now) {
			tr.t.Errorf("the stream was ended at %v, the client should end it at %v", now, closed)
		}
		close(left)
	}()
	beat := time.NewTicker(15 * time.Second)
	defer beat.Stop()
	for {
		select {
		case <-beat.C:
			tr.mu.Lock()
			if !tr.muted {
				_, _ = io.WriteString(c.far, ":\n\n")
			}
			tr.mu.Unlock()
		case <-left:
			tr.mu.Lock()
			muted := tr.muted
			tr.mu.Unlock()
			if muted {
				<-c.ended
			}
			return
		case <-c.ended:
			return
		}
	}
}

// note checks that a request is expected. It returns when the client has to end the stream that the
// request asks for.
func (tr *timeline) note(r *http.Request) (closed window) {
	if tr.Requests == nil {
		return window{}
	}
	now := time.Since(tr.began)
	tr.mu.Lock()
	defer tr.mu.Unlock()
	if len(tr.Requests) == 0 {
		tr.t.Errorf("at %v came one request too many: %s %s", now, r.Method, r.RequestURI)
		return window{}
	}
	x := tr.Requests[0]
	tr.Requests = tr.Requests[1:]
	method := cmp.Or(x.Method, http.MethodGet)
	if !x.Within.has(now) || r.Method != method || x.Stream != nil && wantsStream(r) != *x.Stream || x.Target != "" && !sameTarget(r.RequestURI, x.Target) {
		tr.t.Errorf("at %v came %s %s, for a stream %v; want %s %s at %v", now, r.Method, r.RequestURI, wantsStream(r), method, x.Target, x.Within)
	}
	return x.Closed
}

// finish ends all connections after the scenario.
func (tr *timeline) finish() {
	tr.mu.Lock()
	defer tr.mu.Unlock()
	if len(tr.Requests) > 0 {
		tr.t.Errorf("%d requests to %s are missing, the first at %v", len(tr.Requests), tr.Tracker, tr.Requests[0].Within)
	}
	for c := range tr.conns {
		c.end(false)
	}
}
