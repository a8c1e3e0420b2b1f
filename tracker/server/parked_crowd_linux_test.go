package server_test

import (
	"fmt"
	"io"
	"net"
	"net/netip"
	"runtime"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"ntrack/tracker/server"
)

// Connections that are parked need a goroutine each, but not for longer, and with many of them the
// calls of the store are bounded.
func TestParkedCrowd(t *testing.T) {
	testParked(t, func(t *testing.T, far *farStore, s *server.Server, w server.TestWorker) {
		const crowd = 4500
		before := runtime.NumGoroutine()
		release := far.hold()
		var clients [crowd]testClient
		for i := range clients {
			addr := netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 0, byte(i >> 8), byte(i)}), 1)
			clients[i] = testClient{t, w.AddRequest(addr, 4096, announceAt(1))}
		}
		settle(w)
		for range crowd / 64 {
			w.ServeEvents()
		}
		if n, waiting := far.most.Load(), runtime.NumGoroutine()-before; n != 4096 || waiting > 4096+256+100 {
			t.Errorf("%d calls, %d goroutines", n, waiting)
		}
		release()
		synctest.Wait()
		for range crowd / 64 {
			w.ServeEvents()
		}
		settle(w)
		served, refused := 0, 0
		for _, c := range clients {
			switch text := c.read(plenty); {
			case strings.HasPrefix(text, "HTTP/1.1 200"):
				served++
			case strings.HasPrefix(text, "HTTP/1.1 503"):
				refused++
			}
		}
		if served != 4096 || refused != crowd-4096 {
			t.Errorf("%d served, %d refused", served, refused)
		}
		if n := runtime.NumGoroutine() - before; n > 256+10 {
			t.Errorf("%d goroutines are left", n)
		}
	})
}

// Real connections, many at a time, with a store that takes turns in being slow. Each gets its own
// replies.
func TestParkedChurn(t *testing.T) {
	far, s := farServer(t)
	addr := serve(t, s)
	stop := make(chan struct{})
	var holder, clients sync.WaitGroup
	holder.Go(func() {
		for {
			release := far.hold()
			select {
			case <-stop:
				release()
				return
			case <-time.After(time.Millisecond):
				release()
			}
		}
	})
	for i := range 50 {
		clients.Go(func() {
			for n := range 20 {
				c, err := net.Dial("tcp", addr)
				if err != nil {
					t.Error(err)
					return
				}
				_ = c.SetDeadline(time.Now().Add(patience))
				last := strings.Replace(announceAt(1000+i), "\r\n\r\n", "\r\nConnection: close\r\n\r\n", 1)
				_, _ = io.WriteString(c, strings.Repeat(announceAt(1000+i), n%4)+last)
				if n%5 == 4 { // some do not wait
					c.Close()
					continue
				}
				b, err := io.ReadAll(c)
				if want := fmt.Sprintf("127.0.0.1:%d\"", 1000+i); err != nil || strings.Count(string(b), "HTTP/1.1 200") != n%4+1 || strings.Count(string(b), want) != n%4+1 {
					t.Errorf("client %d: %.300q, %v", i, b, err)
				}
				c.Close()
			}
		})
	}
	clients.Wait()
	close(stop)
	holder.Wait()
	eventually(t, "no connections", func() bool { return s.Conns() == 0 })
	if n := s.Goroutines(); n != 0 {
		t.Errorf("%d connections have a goroutine", n)
	}
}
