package admin_test

import (
	"bufio"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"ntrack/tracker"
	"ntrack/tracker/server"
	"ntrack/tracker/server/admin"
)

// A memoryListener accepts connections in memory, for a synctest bubble.
type memoryListener struct {
	conns chan net.Conn
	done  chan struct{}
}

func (l memoryListener) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.done:
		return nil, net.ErrClosed
	}
}

func (l memoryListener) Close() error { close(l.done); return nil }

func (l memoryListener) Addr() net.Addr { return &net.TCPAddr{} }

// A client that is slow, or keeps a connection that it does not use, loses it.
func TestDeadlines(t *testing.T) {
	const request = "GET /metrics HTTP/1.1\r\nHost: x\r\n"
	for _, tt := range []struct {
		name, send string
		read       bool // the client reads
		ends       time.Duration
	}{
		{"nothing", "", true, 5 * time.Second},
		{"no end of the head", request, true, 5 * time.Second},
		{"no body", request + "Content-Length: 5\r\n\r\n", true, 10 * time.Second},
		{"no second request", request + "\r\n", true, 2 * time.Minute},
		{"a client that does not read", request + "\r\n", false, 30 * time.Second},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				l := memoryListener{make(chan net.Conn), make(chan struct{})}
				serveAt(t, new(admin.Server), l)
				clientEnd, serverEnd := net.Pipe()
				defer clientEnd.Close()
				ended := make(chan struct{})
				l.conns <- watchedConn{serverEnd, sync.OnceFunc(func() { close(ended) })}
				began := time.Now()
				if _, err := io.WriteString(clientEnd, tt.send); err != nil {
					t.Fatal(err)
				}
				if tt.read {
					go io.Copy(io.Discard, clientEnd)
				}
				<-ended
				if d := time.Since(began); d != tt.ends {
					t.Errorf("the connection ends after %v, want %v", d, tt.ends)
				}
			})
		})
	}
}

// A watchedConn calls ends when it is closed.
type watchedConn struct {
	net.Conn
	ends func()
}

func (c watchedConn) Close() error {
	c.ends()
	return c.Conn.Close()
}

// A head of 16 KB is read, and not a much longer one.
func TestLongHead(t *testing.T) {
	for n, want := range map[int]int{15 << 10: 200, 30 << 10: 431} {
		synctest.Test(t, func(t *testing.T) {
			l := memoryListener{make(chan net.Conn), make(chan struct{})}
			serveAt(t, new(admin.Server), l)
			clientEnd, serverEnd := net.Pipe()
			defer clientEnd.Close()
			l.conns <- serverEnd
			go io.WriteString(clientEnd, "GET /healthz HTTP/1.1\r\nHost: x\r\nX: "+strings.Repeat("x", n)+"\r\n\r\n")
			if resp, err := http.ReadResponse(bufio.NewReader(clientEnd), nil); err != nil || resp.StatusCode != want {
				t.Errorf("%d bytes: %+v, %v, want %d", n, resp, err, want)
			}
			time.Sleep(time.Second) // until the server has closed the connection
		})
	}
}

// Four scrapes at a time are served. Another one is refused at once.
func TestManyScrapes(t *testing.T) {
	var slowly atomic.Bool
	begun, end := make(chan struct{}, 8), make(chan struct{})
	at := serve(t, &admin.Server{Server: &server.Server{Tracker: &tracker.Tracker{}}, Ready: func() error {
		if slowly.Load() {
			begun <- struct{}{}
			<-end
		}
		return nil
	}})
	if status, _ := ask(t, dial(t, "tcp", at), "/metrics", "Host: x"); status != http.StatusOK {
		t.Fatal(status)
	}
	slowly.Store(true)
	var slow []net.Conn
	for range 4 {
		c := dial(t, "tcp", at)
		slow = append(slow, c)
		if _, err := io.WriteString(c, "GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"); err != nil {
			t.Fatal(err)
		}
		<-begun
	}
	c := dial(t, "tcp", at)
	_ = c.SetDeadline(time.Now().Add(20 * time.Second)) // it would wait for end if it were served
	if status, body := ask(t, c, "/metrics", "Host: x"); status != http.StatusServiceUnavailable {
		t.Errorf("a fifth scrape: status %d, %.80q", status, body)
	}
	close(end)
	for _, c := range slow {
		resp, err := http.ReadResponse(bufio.NewReader(c), nil)
		if err != nil || resp.StatusCode != http.StatusOK {
			t.Errorf("a scrape: %+v, %v", resp, err)
		}
	}
}
