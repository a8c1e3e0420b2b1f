package server_test

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

// A crowd is another process with many event streams, so that it can be killed, and so that its
// descriptors are not those of the server. Each stream comes from a loopback address of its own.
type crowd struct {
	Addr    string // of the tracker
	Streams int
	Members int  // the streams up to this number are members, the others only look
	OneKey  int  // the streams up to this number have the key "one"
	Keys    int  // the others are spread over this many keys
	Sees    int  // each stream checks that it sees this many joins and peers, and no leave
	Returns bool // when a stream ends, its client waits as the tracker asks, and opens another

	cmd   *exec.Cmd
	stdin io.Closer
	lines *bufio.Scanner
}

func (p *crowd) key(i int) string {
	if i < p.OneKey {
		return "one"
	}
	return fmt.Sprint("key", i%p.Keys)
}

func (p *crowd) addr(i int) netip.Addr {
	return netip.AddrFrom4([4]byte{127, 1, byte(i / 250), byte(1 + i%250)})
}

// endpoint returns the endpoint of a member as an event shows it.
func (p *crowd) endpoint(i int) string { return p.addr(i).String() + ":4000;" }

// of returns the endpoints of the members of a key.
func (p *crowd) of(key string) map[string]bool {
	all := make(map[string]bool)
	for i := range p.Members {
		if p.key(i) == key {
			all[p.endpoint(i)] = true
		}
	}
	return all
}

const crowdEnv = "NTRACK_TEST_CROWD"

// start starts the process, and waits until its streams are open.
func (p *crowd) start(t *testing.T) {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	plan, err := json.Marshal(p)
	if err != nil {
		t.Fatal(err)
	}
	p.cmd = exec.Command(self, "-test.run=^TestCrowd$")
	p.cmd.Env = append(os.Environ(), crowdEnv+"="+string(plan))
	p.cmd.Stderr = os.Stderr
	if p.stdin, err = p.cmd.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	stdout, err := p.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	p.lines = bufio.NewScanner(stdout)
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.kill(t) })
	p.expect(t, "open")
}

// expect reads the next line of the process, which begins with a word, and returns the rest.
func (p *crowd) expect(t *testing.T, word string) string {
	t.Helper()
	late := time.AfterFunc(2*patience, func() { _ = p.cmd.Process.Kill() })
	defer late.Stop()
	if !p.lines.Scan() {
		t.Fatalf("the crowd ended, and did not say %q", word)
	}
	rest, ok := strings.CutPrefix(p.lines.Text(), word)
	if !ok {
		t.Fatalf("the crowd said %q, not %q", p.lines.Text(), word)
	}
	return strings.TrimSpace(rest)
}

// kill kills the process with SIGKILL, and waits for its end.
func (p *crowd) kill(t *testing.T) {
	if err := p.cmd.Process.Kill(); err == nil {
		_ = p.cmd.Wait()
	}
}

// TestCrowd is the process of a crowd.
func TestCrowd(t *testing.T) {
	plan := os.Getenv(crowdEnv)
	if plan == "" {
		return
	}
	go func() { // the test is over
		_, _ = io.Copy(io.Discard, os.Stdin)
		os.Exit(0)
	}()
	var p crowd
	if err := json.Unmarshal([]byte(plan), &p); err != nil {
		t.Fatal(err)
	}
	var open, ended sync.WaitGroup
	open.Add(p.Streams)
	atOnce := make(chan struct{}, 64) // connections that begin
	for i := range p.Streams {
		atOnce <- struct{}{}
		ended.Go(func() {
			s, err := p.open(i)
			<-atOnce
			if err == nil && p.Sees == 0 {
				open.Done()
			}
			if err == nil {
				err = s.read(p.Sees, open.Done)
			}
			if err == nil && p.Returns {
				err = p.comeBack(i, s.retry)
			}
			if err != nil {
				fmt.Println("error", err)
				os.Exit(1)
			}
		})
	}
	open.Wait()
	fmt.Println("open")
	ended.Wait()
	os.Exit(0)
}

// comeBack opens the stream again.
func (p *crowd) comeBack(i int, retry time.Duration) error {
	ended := time.Now()
	time.Sleep(retry)
	for deadline := ended.Add(patience); ; {
		s, err := p.open(i)
		if err == nil {
			fmt.Println("back", retry.Milliseconds(), time.Since(ended).Milliseconds())
			return s.read(0, nil)
		}
		if time.Now().After(deadline) {
			return err
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// A crowdStream is an open stream of the crowd.
type crowdStream struct {
	r     *bufio.Reader
	retry time.Duration // what the tracker last asked for
}

func (p *crowd) open(i int) (*crowdStream, error) {
	port := 0
	if i < p.Members {
		port = 4000
	}
	c, err := dialFrom(p.addr(i), p.Addr)
	if err != nil {
		return nil, err
	}
	fmt.Fprintf(c, "GET /ntrk/%s?port=%d HTTP/1.1\r\nHost: t\r\nAccept: text/event-stream\r\n\r\n", p.key(i), port)
	r := bufio.NewReaderSize(c, 512)
	resp, err := http.ReadResponse(r, nil)
	if err != nil || resp.StatusCode != 200 {
		c.Close()
		return nil, fmt.Errorf("stream %d: %+v, %w", i, resp, err)
	}
	return &crowdStream{r: r}, nil
}

// read reads until the stream ends. It calls all when it has seen that many peers, each once.
func (s *crowdStream) read(sees int, all func()) error {
	seen, name := make(map[string]bool), ""
	for {
		b, err := s.r.ReadSlice('\n')
		if err != nil {
			return nil
		}
		line := strings.TrimSuffix(string(b), "\n")
		if v, ok := strings.CutPrefix(line, "retry: "); ok {
			ms, err := strconv.Atoi(v)
			if err != nil {
				return err
			}
			s.retry = time.Duration(ms) * time.Millisecond
		}
		if v, ok := strings.CutPrefix(line, "event: "); ok {
			name = v
		}
		v, ok := strings.CutPrefix(line, "data: ")
		if !ok || sees == 0 || v == "" || name != "peers" && name != "join" && name != "leave" {
			continue
		}
		if seen[v] || name == "leave" {
			return fmt.Errorf("%s of %s", name, v)
		}
		if seen[v] = true; len(seen) == sees {
			all()
		}
	}
}

// dialFrom connects from an address.
func dialFrom(from netip.Addr, to string) (net.Conn, error) {
	d := net.Dialer{LocalAddr: &net.TCPAddr{IP: from.AsSlice()}, Timeout: patience}
	return d.Dial("tcp", to)
}

// A watcher is an open event stream. It keeps the peers that are there according to the events.
type watcher struct {
	net.Conn
	r      *bufio.Reader
	peers  map[string]bool
	shared bool // another program is listed as the same endpoint
}

func newWatcher(c net.Conn) *watcher {
	return &watcher{Conn: c, r: bufio.NewReader(c), peers: make(map[string]bool)}
}

// watch opens an event stream and reads its first two events.
func watch(t *testing.T, c net.Conn, target string) *watcher {
	t.Helper()
	w := newWatcher(c)
	if _, err := fmt.Fprintf(c, "GET %s HTTP/1.1\r\nHost: t\r\nAccept: text/event-stream\r\n\r\n", target); err != nil {
		t.Fatal(err)
	}
	w.begin(t)
	return w
}

// begin reads the reply and the first two events.
func (w *watcher) begin(t *testing.T) {
	t.Helper()
	resp, err := http.ReadResponse(w.r, nil)
	if err != nil || resp.StatusCode != 200 || resp.Header.Get("Content-Type") != "text/event-stream" {
		t.Fatalf("not a stream: %+v, %v", resp, err)
	}
	for name, data := "", ""; name != "peers"; {
		if name, data, err = event(w.r); err != nil || name != "you" && name != "shared" && name != "peers" {
			t.Fatalf("the stream begins with %s %s, %v", name, data, err)
		}
		w.shared = w.shared || name == "shared"
		for _, p := range strings.SplitAfter(data, ";") {
			if name == "peers" && len(p) > 1 {
				w.peers[p] = true
			}
		}
	}
}

// next reads an event. It is an error if it does not change what is known, such as a leave of a peer
// that is not there.
func (w *watcher) next() (name, data string, err error) {
	name, data, err = event(w.r)
	switch {
	case err != nil:
	case (name == "join" || name == "leave") && w.peers[data] == (name == "leave"):
		if w.peers[data] = true; name == "leave" {
			delete(w.peers, data)
		}
	case (name == "shared" || name == "unshared") && w.shared == (name == "unshared"):
		w.shared = !w.shared
	default:
		err = fmt.Errorf("%s of %s changes nothing", name, data)
	}
	return name, data, err
}

// untilJoin reads until a peer joins, and returns the peers that have left before that.
func (w *watcher) untilJoin(peer string) (left []string, err error) {
	for {
		name, p, err := w.next()
		switch {
		case err != nil:
			return left, err
		case name == "leave":
			left = append(left, p)
		case p == peer:
			return left, nil
		}
	}
}

func listenAt(t *testing.T, addr string) net.Listener {
	t.Helper()
	l, err := net.Listen("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// openFiles returns the open files of this process.
func openFiles(t *testing.T) (all []string) {
	t.Helper()
	files, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		name, _ := os.Readlink("/proc/self/fd/" + f.Name())
		all = append(all, f.Name()+" "+name)
	}
	return all
}
