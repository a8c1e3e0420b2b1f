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
		text := fmt.Sprint(ev.Name, ev.Peers)
		if ev.Epoch != "" || ev.TTL != 0 {
			text += fmt.Sprintf(" %q %v", ev.Epoch, ev.TTL)
		}
		if ev.Age != 0 {
			text += fmt.Sprint(" age ", ev.Age)
		}
		s = append(s, text)
	}
}

var longPeers = "event: peers\n" + strings.Repeat("data: [2001:db8:1111:2222:3333:4444:5555:6666]:65535\n", 10_000) + "\n"

var streams = []struct{ about, bytes, want string }{
	{"the events of a tracker", "event: you\nid: e\ndata: 192.0.2.1:1\ndata: 150\n\nevent: peers\ndata: 192.0.2.2:2\ndata: [2001:db8::1]:3\n\n:\n\nevent: leave\ndata: 192.0.2.2:2\n\n",
		`you[192.0.2.1:1] "e" 2m30s, peers[192.0.2.2:2 [2001:db8::1]:3], leave[192.0.2.2:2]`},
	{"an asker that only looks", "event: you\nid: e-0\ndata: \ndata: 38\n\n", `you[] "e-0" 38s`},
	{"a tracker that sends no ttl", "event: you\nid: e\ndata: 192.0.2.1:1\n\n", `you[192.0.2.1:1] "e" 0s`},
	{"the age of a table", "event: you\nid: e\ndata: \ndata: 38\ndata: 3600\n\n", `you[] "e" 38s age 1h0m0s`},
	{"an age beyond all bounds", "event: you\ndata: \ndata: 38\ndata: 99999999999999999999\n\n", `you[] "" 38s age 298261h37m4s`},
	{"an age that is no number", "event: you\ndata: \ndata: 38\ndata: -5\n\n", `you[] "" 38s`},
	{"more data lines than a client knows", "event: you\nid: e\ndata: 192.0.2.1:1\ndata: 150\ndata: 192.0.2.2:2\ndata: 7\ndata\n\n", `you[192.0.2.1:1] "e" 2m30s`},
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

func TestEventFields(t *testing.T) {
	long := strings.Repeat("e", maxEpoch)
	for bytes, want := range map[string]string{
		"id: 5f3a9c\ndata\n\n":        "5f3a9c",
		"id: 5f3a9c-1\ndata\n\n":      "5f3a9c-1",
		"id: a\nid: b\ndata\n\n":      "b",
		"id: a\nid: b\x00\ndata\n\n":  "a",
		"id: " + long + "\ndata\n\n":  long,
		"id: " + long + "e\ndata\n\n": "",
		"id: a\n\ndata\n\n":           "", // an event without data
		"id\ndata\n\n":                "",
		"data\n\n":                    "",
	} {
		if ev, _ := NewEventReader(strings.NewReader(bytes)).Next(); ev.Epoch != want {
			t.Errorf("%q: epoch %q, want %q", bytes, ev.Epoch, want)
		}
	}
	for ttl, want := range map[string]time.Duration{"38": 38 * time.Second, "0": 0, "-1": 0, "1.5": 0, "": 0, "99999999999999999999": 1 << 30 * time.Second} {
		if ev, _ := NewEventReader(strings.NewReader("event: you\ndata: \ndata: " + ttl + "\n\n")).Next(); ev.TTL != want {
			t.Errorf("ttl %q: %v, want %v", ttl, ev.TTL, want)
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
	a, b := netip.MustParseAddrPort("192.0.2.1:1"), netip.MustParseAddrPort("[2001:db8::1]:2")
	retry, peers := 2*time.Second, []Peer{{Endpoint: a, ID: idOf(a)}, {Endpoint: b}}
	buf := make([]byte, 0, 4096)
	write := func() []byte {
		s := AppendYou(buf, "e", a, 150*time.Second, retry, 41900*time.Millisecond)
		s = AppendEvent(s, "peers", peers...)
		s = AppendHeartbeat(s)
		s = AppendEvent(s, "leave", Peer{Endpoint: b})
		s = AppendRetry(s, retry/2)
		s = AppendYou(s, "e", netip.AddrPortFrom(a.Addr(), 0), 37500*time.Millisecond, retry, -1)
		s = AppendEvent(s, "peers")
		return AppendRetry(s, 1500*time.Millisecond)
	}
	if n := testing.AllocsPerRun(100, func() { write() }); n > 0 {
		t.Errorf("%v allocations", n)
	}
	s := string(write())
	got, r, err := read(strings.NewReader(s))
	if want := `you[192.0.2.1:1] "e" 2m30s age 41s, peers[192.0.2.1:1 [2001:db8::1]:2], leave[[2001:db8::1]:2], you[] "e" 37s, peers[]`; got != want || err != io.EOF {
		t.Errorf("%q is read as %s, %v\nwant %s", s, got, err, want)
	}
	if r.Retry != 1500*time.Millisecond {
		t.Errorf("%q is read as retry %v", s, r.Retry)
	}
}

func FuzzEvents(f *testing.F) {
	for _, s := range streams {
		f.Add(s.bytes)
	}
	f.Fuzz(func(t *testing.T, s string) {
		whole, e1, err1 := read(strings.NewReader(s))
		bytes, e2, err2 := read(iotest.OneByteReader(strings.NewReader(s)))
		if whole != bytes || fmt.Sprint(err1) != fmt.Sprint(err2) || e1.Retry != e2.Retry {
			t.Errorf("%q at once: %s, %v; byte by byte: %s, %v", s, whole, err1, bytes, err2)
		}
		if strings.Count(whole, ":") > 8*len(s) || e1.Retry > MaxRetry {
			t.Errorf("%q: more than was sent, or allowed", s)
		}
	})
}
