package server_test

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"net"
	"runtime"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"ntrack/tracker"
	"ntrack/tracker/server"
	"ntrack/tracker/store/memory"
)

// A replyCounter is the connection of a client that has sent all its requests. It counts the
// replies in each write of the server.
type replyCounter struct {
	*playedConn
	mu      sync.Mutex
	counts  []int           // replies in each write
	largest int             // bytes in the largest write
	total   int             // replies
	written func(total int) // if not nil, is called after each write
}

func newReplyCounter(requests string) *replyCounter {
	return &replyCounter{playedConn: &playedConn{from: somewhere, chunks: [][]byte{[]byte(requests)}, closed: make(chan struct{})}}
}

func (c *replyCounter) Write(b []byte) (int, error) {
	n := bytes.Count(b, []byte("HTTP/1.1 2"))
	c.mu.Lock()
	c.counts, c.largest, c.total = append(c.counts, n), max(c.largest, len(b)), c.total+n
	total := c.total
	c.mu.Unlock()
	if c.written != nil {
		c.written(total)
	}
	return len(b), nil
}

// ended waits until the connection is closed.
func (c *replyCounter) ended(t *testing.T) {
	t.Helper()
	select {
	case <-c.closed:
	case <-time.After(time.Minute):
		t.Fatal("the connection hangs")
	}
}

// Requests that a client pipelines are served in batches. The server sends the replies of a batch
// in one write.
func TestBatch(t *testing.T) {
	full := &tracker.Tracker{}
	for i := range 1000 {
		join(t, full, "k", 1+i)
	}
	const head = " HTTP/1.1\r\nHost: t\r\n\r\n"
	for _, tt := range []struct {
		name       string
		tracker    *tracker.Tracker
		request    string
		n          int // requests
		maxReplies int // in one write
		maxBytes   int // in one write
		maxWrites  int
	}{
		{"short replies", &tracker.Tracker{}, "GET /ntrk/k?port=0" + head, 1000, 16, 16 << 10, 100},
		{"long replies", full, "GET /ntrk/k?port=0&numwant=1000&format=text" + head, 100, 5, 80 << 10, 34},
		{"a store that may be slow", &tracker.Tracker{Store: &slowStore{Store: memory.New()}}, "GET /ntrk/k?port=0" + head, 10, 1, 1 << 10, 10},
		{"bodies", &tracker.Tracker{}, "POST /ntrk/k?port=1 HTTP/1.1\r\nHost: t\r\nContent-Length: 5\r\n\r\nhello", 1000, 16, 16 << 10, 100},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := newReplyCounter(strings.Repeat(tt.request, tt.n))
			s := &server.Server{Tracker: tt.tracker, Log: server.LogTo(func(line string) { t.Error(line) })}
			l := &oneListener{conn: c, done: make(chan struct{})}
			ended := make(chan error)
			go func() { ended <- s.Serve(l) }()
			c.ended(t)
			l.Close()
			await(t, "Serve", ended)
			most := 0
			for _, n := range c.counts {
				most = max(most, n)
			}
			if c.total != tt.n || most > tt.maxReplies || c.largest > tt.maxBytes || len(c.counts) > tt.maxWrites {
				t.Errorf("%d replies in %d writes, %d replies and %d bytes at most in one", c.total, len(c.counts), most, c.largest)
			}
		})
	}
}

// A client that pipelines requests does not delay a client with one request, even with one CPU and
// connections that never block.
func TestBatchesAlternate(t *testing.T) {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(1))
	s := &server.Server{Tracker: &tracker.Tracker{}, Log: server.LogTo(func(line string) { t.Error(line) })}
	l := newArrivals(s)
	defer shutdown(s)
	const request = "GET /ntrk/k?port=0 HTTP/1.1\r\nHost: t\r\n\r\n"
	many, one := newReplyCounter(strings.Repeat(request, 5000)), newReplyCounter(request)
	began, before := make(chan struct{}), 0 // before is how many replies many gets before one gets its reply
	var once sync.Once
	many.written = func(int) { once.Do(func() { close(began) }) }
	one.written = func(int) {
		many.mu.Lock()
		defer many.mu.Unlock()
		before = many.total
	}
	l.conns <- many
	await(t, "the first reply", began)
	l.conns <- one
	one.ended(t)
	many.ended(t)
	if many.total != 5000 || before > 500 { // a batch has 16, and several of them may come first
		t.Errorf("one request was served after %d of %d", before, many.total)
	}
}

// A client that stops reading a reply for ten seconds loses its connection.
func TestReplyDeadline(t *testing.T) {
	for _, tt := range []struct {
		name             string
		take             int           // bytes that the client reads at a time
		every            time.Duration // the time between reads
		times            int
		earliest, latest time.Duration // when the connection ends; 0 for never
	}{
		{"none of it", 0, 0, 0, 10 * time.Second, 10 * time.Second},
		{"some of it", 10, time.Second, 5, 14 * time.Second, 17 * time.Second},
		{"all of it, slowly", 10, 9 * time.Second, 100, 0, 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			inBubble(t, func(t *testing.T) {
				s := &server.Server{Tracker: &tracker.Tracker{}}
				defer shutdown(s)
				c := pipe(s)
				defer c.Close()
				r := bufio.NewReader(c)
				get(t, c, r, "/ntrk/k?port=0") // while the connection is idle, its deadlines move after 15 seconds
				time.Sleep(14900 * time.Millisecond)
				get(t, c, r, "/ntrk/k?port=0")
				time.Sleep(150 * time.Millisecond)
				began := time.Now()
				const request = "GET /ntrk/k?port=0 HTTP/1.1\r\nHost: t\r\n\r\n"
				if _, err := io.WriteString(c, request); err != nil {
					t.Fatal(err)
				}
				done := make(chan error)
				go func() { // the server does not read this request until the client has read the reply
					_, err := io.WriteString(c, request)
					done <- err
				}()
				taken := 0
				for range tt.times {
					time.Sleep(tt.every)
					n, err := io.ReadFull(c, make([]byte, tt.take))
					if taken += n; err != nil {
						break
					}
				}
				<-done
				d := time.Since(began)
				if tt.latest == 0 && taken < 200 || tt.latest > 0 && (d < tt.earliest || d > tt.latest) {
					t.Errorf("ended after %v, with %d bytes read", d, taken)
				}
			})
		})
	}
}

// The server keeps no large buffer after a large reply, even if its body was not sent.
func TestLargeBuffersAreFreed(t *testing.T) {
	tr := &tracker.Tracker{Index: true}
	for i := range 5000 {
		join(t, tr, fmt.Sprintf("%0100d", i), 1)
	}
	for _, method := range []string{"GET", "HEAD"} {
		s := &server.Server{Tracker: tr}
		c := newReplyCounter(method + " /ntrk/?format=text HTTP/1.1\r\nHost: t\r\n\r\nGET /ntrk/k?port=0 HTTP/1.0\r\n\r\n")
		go s.Serve(&oneListener{conn: c, done: make(chan struct{})})
		c.ended(t)
		_ = s.Shutdown(t.Context())
		if n := s.LargestBuffer(); n > 128<<10 {
			t.Errorf("%s: a buffer of %d bytes is kept", method, n)
		}
	}
}

// After the last reply the server lingers: it reads what the client still sends, for half a second.
// Otherwise a close could reset the connection, and the client might lose the reply. The server
// does not linger if the client asked for the close and has sent nothing else.
func TestLastReply(t *testing.T) {
	const end = " HTTP/1.1\r\nHost: t\r\nConnection: close\r\n\r\n"
	for _, tt := range []struct {
		name, request string
		lingers       bool
	}{
		{"asked for", "GET /ntrk/k?port=0" + end, false},
		{"HTTP/1.0", "GET /ntrk/k?port=0 HTTP/1.0\r\n\r\n", false},
		{"asked for, and more", "GET /ntrk/k?port=0" + end + "GET", true},
		{"not asked for", "GET /ntrk/" + strings.Repeat("k", 9000) + " HTTP/1.1\r\nHost: t\r\n\r\n", true},
		{"no request", "GET\r\n\r\n", true},
		{"too much body", "POST /ntrk/k HTTP/1.0\r\nContent-Length: 100000\r\n\r\n" + strings.Repeat("x", 70000), true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			inBubble(t, func(t *testing.T) {
				s := &server.Server{Tracker: &tracker.Tracker{}, Log: server.LogTo(func(line string) { t.Error(line) })}
				defer shutdown(s)
				l := newArrivals(s)
				clientEnd, serverEnd := net.Pipe()
				clientEnd = patient(clientEnd)
				defer clientEnd.Close()
				c := halfClosing{from{serverEnd, somewhere}, make(chan struct{})}
				l.conns <- c
				go io.Copy(io.Discard, clientEnd)
				if _, err := io.WriteString(clientEnd, tt.request); err != nil {
					t.Fatal(err)
				}
				synctest.Wait()
				halved := false
				select {
				case <-c.closed:
					halved = true
				default:
				}
				if _, err := clientEnd.Write([]byte("x")); (err == nil) != tt.lingers || halved != tt.lingers {
					t.Errorf("lingers: %t, %v", halved, err)
				}
				time.Sleep(time.Second)
				if _, err := clientEnd.Write([]byte("x")); err == nil {
					t.Error("it lingers for too long")
				}
			})
		})
	}
}

// The server also lingers after a stream that the tracker has ended.
func TestStreamEndLingers(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		s := &server.Server{Tracker: &tracker.Tracker{}, Log: server.LogTo(func(line string) { t.Error(line) })}
		defer shutdown(s)
		l := newArrivals(s)
		clientEnd, serverEnd := net.Pipe()
		clientEnd = patient(clientEnd)
		defer clientEnd.Close()
		c := halfClosing{from{serverEnd, somewhere}, make(chan struct{})}
		l.conns <- c
		r := openStream(t, clientEnd, "/ntrk/k?port=4000")
		s.Tracker.EndStreams()
		if line, err := r.ReadString('\n'); err != nil || !strings.HasPrefix(line, "retry: ") {
			t.Errorf("%q, %v", line, err)
		}
		go io.Copy(io.Discard, r)
		await(t, "the half-close", c.closed)
		if _, err := clientEnd.Write([]byte("x")); err != nil {
			t.Error(err)
		}
		time.Sleep(time.Second)
		synctest.Wait()
		if n := s.Conns(); n != 0 {
			t.Errorf("%d connections", n)
		}
	})
}
