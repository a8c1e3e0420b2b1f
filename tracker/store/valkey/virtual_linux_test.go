package valkey

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"github.com/redis/rueidis"

	"ntrack/tracker/store/valkey/valkeytest"
)

// A virtualTime lets a store in a bubble of package synctest use a real database outside of it.
//
// The database has the time of the bubble, by testdata/clock.c. The bubble's time stands still while a
// reply is due: a goroutine that waits for the network does not count as blocked. While none is due, a
// read waits for the next command instead, and does count.
//
// Messages of channels come without a command. So after each message that was published, every
// connection to the node with a subscription sends a PING, and its reply comes after the message.
type virtualTime struct {
	engine *valkeytest.Engine
	opened int              // how many stores were opened
	inCase *testing.T       // the case that opened the last one
	clock  *[2]atomic.Int64 // shared with the servers: the time, and how often it changed
	ahead  time.Duration    // of the database's time, against that of the bubble

	mu    sync.Mutex
	conns map[*virtualConn]bool
}

// startVirtual starts a database whose time a bubble decides.
func startVirtual(t *testing.T, o valkeytest.Options) *virtualTime {
	t.Helper()
	dir := t.TempDir()
	library := filepath.Join(dir, "clock.so")
	if _, err := exec.LookPath("cc"); err != nil {
		valkeytest.Missing(t, err)
	}
	if out, err := exec.Command("cc", "-shared", "-fPIC", "-O2", "-o", library, "testdata/clock.c", "-ldl").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	file, err := os.OpenFile(filepath.Join(dir, "clock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	if err := file.Truncate(16); err != nil {
		t.Fatal(err)
	}
	shared, err := syscall.Mmap(int(file.Fd()), 0, 16, syscall.PROT_READ|syscall.PROT_WRITE, syscall.MAP_SHARED)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = syscall.Munmap(shared) })
	o.Env = append(o.Env, "LD_PRELOAD="+library, "TEST_CLOCK="+file.Name())
	o.NodeTimeout = 20 * 365 * 24 * time.Hour // in the bubble's time, hours pass between two messages
	return &virtualTime{
		engine: valkeytest.Start(t, o),
		clock:  (*[2]atomic.Int64)(unsafe.Pointer(&shared[0])),
		conns:  make(map[*virtualConn]bool),
	}
}

// adjust makes a client use the database from inside a bubble. It also turns off what the client does
// each second or five without a change, since days pass in a test.
func (v *virtualTime) adjust(o *rueidis.ClientOption) {
	o.Dialer.KeepAlive, o.MaxFlushDelay = -1, 0
	o.ClusterOption.ShardsRefreshInterval = 0
	o.DialCtxFn = func(ctx context.Context, addr string, dialer *net.Dialer, _ *tls.Config) (net.Conn, error) {
		conn, err := dialer.DialContext(ctx, "tcp", addr)
		if err != nil {
			return nil, err
		}
		if config := v.engine.TLS(); config != nil {
			conn = tls.Client(conn, config)
		}
		c := &virtualConn{Conn: conn, v: v, addr: addr, r: bufio.NewReaderSize(conn, 1<<16)}
		c.changed = sync.NewCond(&c.mu)
		v.mu.Lock()
		v.conns[c] = true
		v.mu.Unlock()
		return c, nil
	}
}

// empty removes everything from the database. Then its time goes on.
func (v *virtualTime) empty(t *testing.T) {
	t.Helper()
	v.setClock(0)
	for _, n := range v.engine.Nodes {
		n.Must("FLUSHALL")
	}
}

// setClock sets the time of the servers; 0 is that of the machine.
func (v *virtualTime) setClock(ns int64) {
	if v.clock[0].Swap(ns) != ns {
		v.clock[1].Add(1)
	}
}

// A virtualConn is a connection from inside a bubble.
type virtualConn struct {
	net.Conn
	v    *virtualTime
	addr string
	r    *bufio.Reader
	rest []byte // of a frame that Read has to return

	mu         sync.Mutex
	changed    *sync.Cond
	due        []due  // what the server has to answer
	command    []byte // the beginning of a command
	closed     bool
	subscribed bool
	published  bool // since the last flush
}

// A due is a reply that the server owes.
type due struct {
	kind byte // 0, 's' for a subscription, 'p' for a command that may publish, or 'o' for a PING of our own
	n    int  // frames, more than 1 for a subscription to several channels
}

var errVirtualClosed = errors.New("the connection is closed")

func (c *virtualConn) SetDeadline(time.Time) error      { return nil }
func (c *virtualConn) SetReadDeadline(time.Time) error  { return nil }
func (c *virtualConn) SetWriteDeadline(time.Time) error { return nil }

func (c *virtualConn) Close() error {
	c.v.mu.Lock()
	delete(c.v.conns, c)
	c.v.mu.Unlock()
	c.mu.Lock()
	c.closed = true
	c.mu.Unlock()
	c.changed.Broadcast()
	return c.Conn.Close()
}

// Write sends the commands that are complete.
func (c *virtualConn) Write(p []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return 0, errVirtualClosed
	}
	c.command = append(c.command, p...)
	complete := 0
	for {
		name, args, n := cutCommand(c.command[complete:])
		if n == 0 {
			break
		}
		complete += n
		switch name {
		case "SSUBSCRIBE", "SUBSCRIBE", "PSUBSCRIBE":
			c.subscribed = true
			c.due = append(c.due, due{'s', args})
		case "SUNSUBSCRIBE", "UNSUBSCRIBE", "PUNSUBSCRIBE":
			// The client sends a PING after it, whose reply comes after the others.
		case "SPUBLISH", "PUBLISH", "EVAL", "EVALSHA", "FCALL":
			c.due = append(c.due, due{'p', 1})
		default:
			c.due = append(c.due, due{0, 1})
		}
	}
	if err := c.send(c.command[:complete]); err != nil {
		return 0, err
	}
	c.command = append(c.command[:0], c.command[complete:]...)
	c.changed.Broadcast()
	return len(p), nil
}

// send sets the time of the database and writes to it. The caller holds c.mu.
func (c *virtualConn) send(p []byte) error {
	if len(p) == 0 {
		return nil
	}
	c.v.setClock(time.Now().Add(c.v.ahead).UnixNano())
	_, err := c.Conn.Write(p)
	return err
}

// ping sends a PING of our own.
func (c *virtualConn) ping() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed || !c.subscribed {
		return
	}
	if c.send([]byte("*1\r\n$4\r\nPING\r\n")) == nil {
		c.due = append(c.due, due{'o', 1})
		c.changed.Broadcast()
	}
}

// Read returns the next reply or message.
func (c *virtualConn) Read(p []byte) (int, error) {
	for len(c.rest) == 0 {
		c.mu.Lock()
		for len(c.due) == 0 && !c.closed {
			c.changed.Wait()
		}
		closed := c.closed
		c.mu.Unlock()
		if closed {
			return 0, errVirtualClosed
		}
		frame, err := valkeytest.ReadFrame(c.r, nil)
		if err != nil {
			return 0, err
		}
		if c.settle(frame) {
			c.rest = frame
		}
	}
	n := copy(p, c.rest)
	c.rest = c.rest[n:]
	return n, nil
}

// settle strikes what the frame answers from the replies that are due. It returns false if the frame
// answers a PING of our own.
func (c *virtualConn) settle(frame []byte) bool {
	c.mu.Lock()
	first := &c.due[0]
	if frame[0] == '>' && (first.kind != 's' || !bytes.Contains(frame[:min(40, len(frame))], []byte("subscribe\r\n")) ||
		bytes.Contains(frame[:min(40, len(frame))], []byte("unsubscribe\r\n"))) {
		c.mu.Unlock()
		return true // a message, or the end of a subscription
	}
	kind := first.kind
	if first.n--; first.n == 0 || frame[0] == '-' {
		c.due = c.due[1:]
	}
	flush := false
	if kind == 'p' {
		c.published = c.published || !bytes.Equal(frame, []byte(":0\r\n"))
		flush = c.published
		for _, d := range c.due {
			flush = flush && d.kind != 'p'
		}
		if flush {
			c.published = false
		}
	}
	c.mu.Unlock()
	if flush {
		c.v.mu.Lock()
		defer c.v.mu.Unlock()
		for other := range c.v.conns {
			if other.addr == c.addr {
				other.ping()
			}
		}
	}
	return kind != 'o'
}

// cutCommand returns the name of the first command in b, how many arguments it has, and its length. The
// length is 0 if the command is not complete.
func cutCommand(b []byte) (name string, args, length int) {
	number := func(prefix byte) (int, bool) {
		end := bytes.Index(b[length:], []byte("\r\n"))
		if end < 0 {
			return 0, false
		}
		line := b[length : length+end]
		n, err := strconv.Atoi(string(line[1:]))
		if line[0] != prefix || err != nil {
			panic("not a command: " + string(line))
		}
		length += end + 2
		return n, true
	}
	parts, ok := number('*')
	if !ok {
		return "", 0, 0
	}
	for i := range parts {
		n, ok := number('$')
		if !ok || len(b) < length+n+2 {
			return "", 0, 0
		}
		if i == 0 {
			name = strings.ToUpper(string(b[length : length+n]))
		}
		length += n + 2
	}
	return name, parts - 1, length
}
