package main

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// A load is clients of every kind, honest and rude.
type load struct {
	tracker *tracker
	users   int
	served  atomic.Int64 // honest requests that were answered
	failed  atomic.Pointer[error]
}

func newLoad(t *tracker, users int) *load { return &load{tracker: t, users: users} }

// failure returns the first error of an honest client.
func (l *load) failure() error {
	if err := l.failed.Load(); err != nil {
		return *err
	}
	return nil
}

// run runs all clients until ctx ends.
func (l *load) run(ctx context.Context) {
	var all sync.WaitGroup
	for range l.users {
		all.Go(func() {
			for wait(ctx, upTo(2*time.Second)) {
				do := actions[rand.IntN(len(actions))]
				if err := do(l, ctx); err != nil && ctx.Err() == nil && !errors.Is(err, errLate) {
					l.failed.CompareAndSwap(nil, &err)
				}
			}
		})
	}
	all.Go(func() { l.reload(ctx) })
	all.Wait()
}

// reload makes the tracker read its files again, with and without a denied key.
func (l *load) reload(ctx context.Context) {
	for i := 0; wait(ctx, 500*time.Millisecond+upTo(time.Second)); i++ {
		if err := errors.Join(l.tracker.deny([]string{"", "key denied\n"}[i%2]), l.tracker.reload()); err != nil {
			l.failed.CompareAndSwap(nil, &err)
		}
	}
}

func upTo(d time.Duration) time.Duration { return rand.N(d) }

// wait waits for d, and reports whether ctx has not ended.
func wait(ctx context.Context, d time.Duration) bool {
	select {
	case <-ctx.Done():
		return false
	case <-time.After(d):
		return true
	}
}

// actions has what a client does, each as often as it is here. A rude client gives no error.
var actions = []func(*load, context.Context) error{
	(*load).announce, (*load).announce, (*load).announce, (*load).keepAlive, (*load).classic, (*load).scrape,
	(*load).stream, (*load).stream, (*load).stream, (*load).denied, (*load).https, (*load).httpsStream, (*load).proxied,
	(*load).slow, (*load).silent, (*load).reset, (*load).unreadReplies, (*load).unreadStream, (*load).handshake, (*load).garbage,
}

// patience is how long an honest client waits. The machine may be busy.
const patience = 30 * time.Second

// dial connects from an address of this machine, a random one if from is "". The connection ends with ctx.
func dial(ctx context.Context, from, to string) (*net.TCPConn, func(), error) {
	if from == "" {
		from = someAddr()
	}
	d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(from)}, Timeout: patience}
	c, err := d.DialContext(ctx, "tcp", to)
	if err != nil {
		return nil, nil, err
	}
	_ = c.SetDeadline(time.Now().Add(patience))
	stop := context.AfterFunc(ctx, func() { _ = c.Close() })
	return c.(*net.TCPConn), func() { stop(); _ = c.Close() }, nil
}

// rudely connects, and does something that the tracker need not answer.
func (l *load) rudely(ctx context.Context, to string, do func(c *net.TCPConn)) error {
	c, done, err := dial(ctx, "", to)
	if err != nil {
		return err
	}
	defer done()
	do(c)
	return nil
}

// ask sends a request on a connection, and returns the reply with the reader of its body.
func (l *load) ask(c net.Conn, r *bufio.Reader, method, target, header string, allowed ...int) (*http.Response, error) {
	if _, err := fmt.Fprintf(c, "%s %s HTTP/1.1\r\nHost: tracker\r\n%s\r\n", method, target, header); err != nil {
		return nil, fmt.Errorf("%s %s: %w", method, target, err)
	}
	reply, err := http.ReadResponse(r, &http.Request{Method: method})
	if err != nil {
		return nil, fmt.Errorf("%s %s: %w", method, target, err)
	}
	for _, status := range append(allowed, http.StatusOK, http.StatusNoContent) {
		if reply.StatusCode == status {
			l.served.Add(1)
			return reply, nil
		}
	}
	body, _ := io.ReadAll(reply.Body)
	return nil, fmt.Errorf("%s %s: %s: %s", method, target, reply.Status, body)
}

// once asks for something and reads all of it.
func (l *load) once(c net.Conn, r *bufio.Reader, method, target, header string) (string, error) {
	reply, err := l.ask(c, r, method, target, header)
	if err != nil {
		return "", err
	}
	body, err := io.ReadAll(reply.Body)
	return string(body), err
}

// someKey is mostly one of 50 keys, and sometimes a key that nobody else has.
func someKey() string {
	if rand.IntN(10) == 0 {
		return fmt.Sprintf("key%x", rand.Uint64())
	}
	return fmt.Sprint("key", rand.IntN(50))
}

func someAddr() string { return fmt.Sprintf("127.1.%d.%d", rand.IntN(256), rand.IntN(256)) }

func somePort() int { return 1 + rand.IntN(65535) }

func target() string { return fmt.Sprintf("/ntrk/%s?port=%d", someKey(), somePort()) }

// announce announces once, in a connection of its own.
func (l *load) announce(ctx context.Context) error {
	return l.requestFrom(ctx, "", target())
}

func (l *load) requestFrom(ctx context.Context, from, target string) error {
	c, done, err := dial(ctx, from, l.tracker.plain)
	if err != nil {
		return err
	}
	defer done()
	if from == proxy {
		fmt.Fprintf(c, "PROXY TCP4 203.0.113.%d 192.0.2.1 %d 80\r\n", rand.IntN(256), somePort())
	}
	body, err := l.once(c, bufio.NewReader(c), "GET", target, "Connection: close\r\n")
	if err == nil && strings.Contains(body, "failure reason") {
		err = fmt.Errorf("GET %s: %q", target, body)
	}
	return err
}

func (l *load) proxied(ctx context.Context) error { return l.requestFrom(ctx, proxy, target()) }

// classic announces as a BitTorrent client, and leaves. It leaves even after the end of ctx, because such
// a client stays listed for 15 minutes.
func (l *load) classic(ctx context.Context) error {
	ctx = context.WithoutCancel(ctx)
	target := fmt.Sprintf("/announce?info_hash=%020d&peer_id=%020d&port=%d&compact=1&left=0", rand.IntN(50), rand.IntN(1e6), somePort())
	from := someAddr()
	return errors.Join(l.requestFrom(ctx, from, target), l.requestFrom(ctx, from, target+"&event=stopped"))
}

func (l *load) scrape(ctx context.Context) error {
	return l.requestFrom(ctx, "", []string{"/scrape", fmt.Sprintf("/scrape?info_hash=%020d", rand.IntN(50)), "/ntrk/"}[rand.IntN(3)])
}

// keepAlive sends several requests on one connection. Some of the peers leave again.
func (l *load) keepAlive(ctx context.Context) error {
	c, done, err := dial(ctx, "", l.tracker.plain)
	if err != nil {
		return err
	}
	defer done()
	r := bufio.NewReader(c)
	replied := time.Now()
	ask := func(method, to string) error {
		_, err := l.once(c, r, method, to, "")
		idle := time.Since(replied)
		replied = time.Now()
		switch {
		case err == nil:
			return nil
		case idle > idleTimeout: // this machine was too busy to send it in time
			return errLate
		}
		return fmt.Errorf("%w, %v after the last reply", err, idle)
	}
	for range 1 + rand.IntN(10) {
		to := target()
		if err := ask("GET", to); err != nil {
			return err
		}
		if !wait(ctx, upTo(300*time.Millisecond)) {
			return nil
		}
		if rand.IntN(2) == 0 {
			if err := ask("DELETE", to); err != nil {
				return err
			}
		}
	}
	return nil
}

// errLate is the error of a request that a client has sent too late, when the tracker may have ended
// the connection.
var errLate = errors.New("this client was too late")

// follow reads an event stream for some time. Then it closes the connection, or resets it.
func (l *load) follow(ctx context.Context, c *net.TCPConn, over net.Conn, key string) error {
	reply, err := l.ask(over, bufio.NewReader(over), "GET", fmt.Sprintf("/ntrk/%s?port=%d", key, somePort()), "Accept: text/event-stream\r\n", http.StatusNotFound)
	if err != nil {
		return err
	}
	_ = c.SetReadDeadline(time.Now().Add(upTo(5 * time.Second)))
	if _, err = io.Copy(io.Discard, reply.Body); errors.Is(err, os.ErrDeadlineExceeded) || key == "denied" {
		err = nil // otherwise the tracker has ended the stream
	} else if err == nil {
		err = fmt.Errorf("the tracker has ended a stream of %s", key)
	}
	if rand.IntN(2) == 0 {
		_ = c.SetLinger(0)
	}
	return err
}

func (l *load) streamOf(ctx context.Context, key string) error {
	c, done, err := dial(ctx, "", l.tracker.plain)
	if err != nil {
		return err
	}
	defer done()
	return l.follow(ctx, c, c, key)
}

func (l *load) stream(ctx context.Context) error { return l.streamOf(ctx, someKey()) }
func (l *load) denied(ctx context.Context) error { return l.streamOf(ctx, "denied") }

// overTLS does something on a connection with TLS.
func (l *load) overTLS(ctx context.Context, do func(c *net.TCPConn, over net.Conn) error) error {
	c, done, err := dial(ctx, "", l.tracker.tls)
	if err != nil {
		return err
	}
	defer done()
	return do(c, tls.Client(c, &tls.Config{RootCAs: l.tracker.roots, ServerName: "127.0.0.1"}))
}

func (l *load) https(ctx context.Context) error {
	return l.overTLS(ctx, func(_ *net.TCPConn, over net.Conn) error {
		_, err := l.once(over, bufio.NewReader(over), "GET", target(), "Connection: close\r\n")
		return err
	})
}

func (l *load) httpsStream(ctx context.Context) error {
	return l.overTLS(ctx, func(c *net.TCPConn, over net.Conn) error { return l.follow(ctx, c, over, someKey()) })
}

// slow sends a request byte by byte, and does not finish it.
func (l *load) slow(ctx context.Context) error {
	return l.rudely(ctx, l.tracker.plain, func(c *net.TCPConn) {
		for i := range rand.IntN(30) {
			if _, err := c.Write([]byte{"GET /ntrk/slow?port=1 HTTP/1.1\r\n"[i]}); err != nil || !wait(ctx, 100*time.Millisecond) {
				return
			}
		}
	})
}

// silent sends nothing.
func (l *load) silent(ctx context.Context) error {
	return l.rudely(ctx, l.tracker.plain, func(c *net.TCPConn) { wait(ctx, upTo(5*time.Second)) })
}

// reset resets a connection in or after a request.
func (l *load) reset(ctx context.Context) error {
	return l.rudely(ctx, l.tracker.plain, func(c *net.TCPConn) {
		request := "GET " + target() + " HTTP/1.1\r\nHost: tracker\r\n\r\n"
		_, _ = io.WriteString(c, request[:rand.IntN(len(request)+1)])
		_ = c.SetLinger(0)
	})
}

// unreadReplies sends many requests, and reads no reply.
func (l *load) unreadReplies(ctx context.Context) error {
	return l.rudely(ctx, l.tracker.plain, func(c *net.TCPConn) {
		_ = c.SetReadBuffer(4096)
		_ = c.SetWriteDeadline(time.Now().Add(2 * time.Second))
		_, _ = io.WriteString(c, strings.Repeat("GET /ntrk/key1?num_want=1000 HTTP/1.1\r\nHost: tracker\r\n\r\n", 500))
		wait(ctx, upTo(5*time.Second))
	})
}

// unreadStream opens a stream, and reads nothing of it.
func (l *load) unreadStream(ctx context.Context) error {
	return l.rudely(ctx, l.tracker.plain, func(c *net.TCPConn) {
		_ = c.SetReadBuffer(4096)
		fmt.Fprintf(c, "GET %s HTTP/1.1\r\nHost: tracker\r\nAccept: text/event-stream\r\n\r\n", target())
		wait(ctx, upTo(5*time.Second))
	})
}

// handshake begins a handshake of TLS, and goes on with nothing.
func (l *load) handshake(ctx context.Context) error {
	return l.rudely(ctx, l.tracker.tls, func(c *net.TCPConn) {
		_, _ = c.Write([]byte{22, 3, 1, 1, 0, 1})
		wait(ctx, upTo(2*time.Second))
	})
}

// garbage sends what is no request.
func (l *load) garbage(ctx context.Context) error {
	return l.rudely(ctx, l.tracker.plain, func(c *net.TCPConn) {
		b := make([]byte, rand.IntN(20_000))
		for i := range b {
			b[i] = byte(rand.IntN(256))
		}
		_, _ = c.Write(b)
		_, _ = io.Copy(io.Discard, c)
	})
}
