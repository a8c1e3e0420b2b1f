package wire

import (
	"errors"
	"fmt"
	"io"
	"net/netip"
	"strings"
	"testing"
	"testing/iotest"
	"time"
)

// read returns all events of a stream as text, the reader, and the error at the end of the stream.
func read(r io.Reader) (string, *EventReader, error) {
	e := NewEventReader(r)
	var s []string
	for {
		ev, err := e.Next()
		if err != nil {
			return strings.Join(s, ", "), e, err
		}
		s = append(s, fmt.Sprint(ev.Name, ev.Peers))
	}
}

var longPeers = "event: peers\n" + strings.Repeat("data: [2001:db8:1111:2222:3333:4444:5555:6666]:65535\n", 10_000) + "\n"

var streams = []struct{ about, bytes, want string }{
	{"the events of a tracker", "event: you\nid: e-0\ndata: 192.0.2.1:1\n\nevent: peers\ndata: 192.0.2.2:2\ndata: [2001:db8::1]:3\n\n:\n\nevent: leave\ndata: 192.0.2.2:2\n\n",
		"you[192.0.2.1:1], peers[192.0.2.2:2 [2001:db8::1]:3], leave[192.0.2.2:2]"},
	{"no peers", "event: peers\ndata: \n\nevent: peers\ndata\n\n", "peers[], peers[]"},
	{"CR LF, and CR alone", "event: join\r\ndata: 192.0.2.1:1\r\n\r\nevent: join\rdata: 192.0.2.2:2\r\r", "join[192.0.2.1:1], join[192.0.2.2:2]"},
	{"a byte order mark", "\ufeffevent: join\ndata: 192.0.2.1:1\n\n", "join[192.0.2.1:1]"},
	{"a byte order mark that is not at the start", "\n\n\ufeffevent: join\ndata: 192.0.2.1:1\n\n", "[192.0.2.1:1]"},
	{"no space after the colon, and two spaces", "event:join\ndata:192.0.2.1:1\ndata:  192.0.2.2:2\n\n", "join[192.0.2.1:1]"},
	{"comments and unknown fields", ": x\nevent: join\n:y\nfoo: bar\nbaz\ndata: 192.0.2.1:1\n\n", "join[192.0.2.1:1]"},
	{"an event without data, which is dropped", "event: join\n\ndata: 192.0.2.1:1\n\n", "[192.0.2.1:1]"},
	{"the last event of two names", "event: join\nevent: leave\ndata: 192.0.2.1:1\n\n", "leave[192.0.2.1:1]"},
	{"an event that is cut off", "event: join\ndata: 192.0.2.1:1\n\nevent: leave\ndata: 192.0.2.1:1\n", "join[192.0.2.1:1]"},
	{"data that is not the endpoint of a peer", "event: join\ndata: 192.0.2.1\ndata: localhost:1\ndata: 192.0.2.1:65536\ndata: 192.0.2.1:0\ndata: 0.0.0.0:1\ndata: [::]:1\ndata: 224.0.0.1:1\ndata: [ff02::1]:1\ndata: \x1b[31m\n\n", "join[]"},
	{"an IPv4 address in IPv6 form, and a zone", "event: join\ndata: [::ffff:192.0.2.1]:1\ndata: [fe80::1%eth0]:2\n\n", "join[192.0.2.1:1 [fe80::1]:2]"},
	{"nothing", "", ""},
}

func TestEvents(t *testing.T) {
	for _, s := range streams {
		for how, r := range map[string]io.Reader{"at once": strings.NewReader(s.bytes), "byte by byte": iotest.OneByteReader(strings.NewReader(s.bytes))} {
			if got, _, err := read(r); got != s.want || err != io.EOF {
				t.Errorf("%s, %s: %s, %v\nwant %s", s.about, how, got, err, s.want)
			}
		}
	}
	if got, _, err := read(strings.NewReader(longPeers)); strings.Count(got, "2001:db8") != 10_000 || err != io.EOF {
		t.Errorf("10,000 of the longest peers: %d of them, %v", strings.Count(got, "2001:db8"), err)
	}
	const empty = "retry: 1\n\n" // an event without data; a stream may have any number of them
	if got, _, err := read(strings.NewReader(strings.Repeat(empty, maxEvent/8) + "event: join\ndata: 192.0.2.1:1\n\n")); got != "join[192.0.2.1:1]" || err != io.EOF {
		t.Errorf("after many events without data: %s, %v", got, err)
	}
	for about, s := range map[string]struct {
		r    io.Reader
		want string
	}{
		"a line without end":    {endless("x"), "event stream: line longer than 4096 bytes"},
		"a comment without end": {io.MultiReader(strings.NewReader(":"), endless("x")), "event stream: line longer than 4096 bytes"},
		"an event without end":  {endless("data: 192.0.2.1:1\n"), "event stream: event longer than 640000 bytes"},
	} {
		_, _, err := read(s.r)
		if long, ok := errors.AsType[*LongEventError](err); !ok || long.Error() != s.want {
			t.Errorf("%s: %v, want %v", about, err, s.want)
		}
	}
}

// endless repeats s far beyond all limits. It ends, so that a reader without limits fails the test and
// does not hang.
func endless(s string) io.Reader { return io.LimitReader(forever(s), 16<<20) }

// forever is a text that repeats itself without end.
type forever string

func (f forever) Read(b []byte) (int, error) {
	n := 0
	for n < len(b) {
		n += copy(b[n:], f)
	}
	return n, nil
}

func TestEventIDs(t *testing.T) {
	for bytes, want := range map[string]string{
		"id: 5f3a9c-0\ndata\n\n":                          "5f3a9c",
		"id: a-1\ndata\n\nid: b-2\ndata\n\n":              "b",
		"id: a-1\ndata\n\ndata\n\n":                       "a", // an id is valid until the next one
		"id: a-1\ndata\n\nid: none\ndata\n\n":             "a",
		"id: a-1\ndata\n\nid: b\x00-2\ndata\n\n":          "a",
		"id: " + strings.Repeat("e", 65) + "-1\ndata\n\n": "",
		"data\n\n": "",
	} {
		if _, e, _ := read(strings.NewReader(bytes)); e.Epoch != want {
			t.Errorf("%q: epoch %q, want %q", bytes, e.Epoch, want)
		}
	}
	for retry, want := range map[string]time.Duration{"2000": 2 * time.Second, "0": 0, "99999999": time.Minute, "5000000000": time.Minute, "99999999999999999999": time.Minute, "-1": -1, "1s": -1, "": -1} {
		if _, e, _ := read(strings.NewReader("retry: " + retry + "\n\n")); e.Retry != want {
			t.Errorf("retry %q: %v, want %v", retry, e.Retry, want)
		}
	}
}

// A client reads back the events that a tracker writes. Writing them allocates nothing.
func TestEventsRoundTrip(t *testing.T) {
	w := EventWriter{Epoch: "e"}
	a, b := netip.MustParseAddrPort("192.0.2.1:1"), netip.MustParseAddrPort("[2001:db8::1]:2")
	retry, peers := 2*time.Second, []Peer{{Endpoint: a, ID: idOf(a)}, {Endpoint: b}}
	buf := make([]byte, 0, 4096)
	write := func() []byte {
		w.seq = 0
		s := w.AppendYou(buf, a, retry)
		s = w.AppendEvent(s, "peers", peers...)
		s = w.AppendHeartbeat(s)
		s = w.AppendEvent(s, "leave", Peer{Endpoint: b})
		s = w.AppendRetry(s, retry/2)
		s = w.AppendYou(s, netip.AddrPortFrom(a.Addr(), 0), retry)
		s = w.AppendEvent(s, "peers")
		return w.AppendRetry(s, 1500*time.Millisecond)
	}
	if n := testing.AllocsPerRun(100, func() { write() }); n > 0 {
		t.Errorf("%v allocations", n)
	}
	s := string(write())
	got, r, err := read(strings.NewReader(s))
	if want := "you[192.0.2.1:1], peers[192.0.2.1:1 [2001:db8::1]:2], leave[[2001:db8::1]:2], you[], peers[]"; got != want || err != io.EOF {
		t.Errorf("%q is read as %s, %v\nwant %s", s, got, err, want)
	}
	if r.Epoch != w.Epoch || r.Retry != 1500*time.Millisecond || strings.Count(s, "\nid: e-") != 5 || !strings.Contains(s, "\nid: e-4\n") {
		t.Errorf("%q is read as epoch %q, retry %v", s, r.Epoch, r.Retry)
	}
}

func FuzzEvents(f *testing.F) {
	for _, s := range streams {
		f.Add(s.bytes)
	}
	f.Fuzz(func(t *testing.T, s string) {
		whole, e1, err1 := read(strings.NewReader(s))
		bytes, e2, err2 := read(iotest.OneByteReader(strings.NewReader(s)))
		if whole != bytes || fmt.Sprint(err1) != fmt.Sprint(err2) || e1.Epoch != e2.Epoch || e1.Retry != e2.Retry {
			t.Errorf("%q at once: %s, %v; byte by byte: %s, %v", s, whole, err1, bytes, err2)
		}
		if strings.Count(whole, ":") > 8*len(s) || len(e1.Epoch) > maxEpoch || e1.Retry > MaxRetry {
			t.Errorf("%q: more than was sent, or allowed", s)
		}
	})
}
