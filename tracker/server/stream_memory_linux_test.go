package server

import (
	"fmt"
	"net"
	"net/netip"
	"runtime"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"ntrack/tracker"
)

// An idle stream of a worker takes little memory. It has no goroutine, no timer and no buffer.
func TestStreamMemory(t *testing.T) {
	for _, tt := range []struct {
		name   string
		target func(i int) string
		most   int64 // bytes of the heap for each stream
	}{
		{"a looker, all at one key", func(int) string { return "/ntrk/k?port=0" }, 576},
		// The store of this one gives up its memory later than the test ends. So it comes last.
		{"a member, ten at a key", func(i int) string { return fmt.Sprintf("/ntrk/k%d?port=%d", i/10, 1+i%10) }, 800},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := &Server{Tracker: &tracker.Tracker{}, Log: LogTo(func(line string) { t.Error(line) })}
			l, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			w := s.TestWorker(t, l)
			const n = 4000
			clients := make([]int, n)
			before := heapSize()
			for i := range clients {
				fds := socketPair(t)
				clients[i] = fds[1]
				_, _ = unix.Write(fds[1], fmt.Appendf(nil, "GET %s HTTP/1.1\r\nHost: t\r\nAccept: text/event-stream\r\n\r\n", tt.target(i)))
				w.w.now = time.Now()
				w.w.addConn(fds[0], netip.MustParseAddrPort("127.0.0.1:1"))
				w.ServeEvents()
				if i%10 == 9 { // so that the system's buffers have room
					drain(clients[i-9 : i+1])
				}
			}
			await := func(what string, done func() bool) {
				for deadline := time.Now().Add(10 * time.Second); !done() && time.Now().Before(deadline); {
					w.Housekeeping()
					w.ServeEvents()
				}
				if !done() {
					t.Fatalf("%s: not yet", what)
				}
			}
			await("all streams are open", func() bool { return w.w.streams.open == n })
			// After two batches there is nothing left to send.
			end := time.Now().Add(100 * time.Millisecond)
			await("all events are sent", func() bool { return time.Now().After(end) && !w.w.streams.due() })
			drain(clients)
			// The store keeps the last changes of a key for a second more.
			var each int64
			for deadline := time.Now().Add(10 * time.Second); ; {
				each = (heapSize() - before) / n
				if each <= tt.most || time.Now().After(deadline) {
					break
				}
				w.Housekeeping()
			}
			t.Logf("%d bytes", each)
			if each > tt.most {
				t.Errorf("it takes %d bytes, and may take %d", each, tt.most)
			}
			for _, fd := range clients {
				_ = unix.Close(fd)
			}
			await("all streams are closed", func() bool { return w.w.streams.open == 0 })
			w.End()
		})
	}
}

// drain reads what has arrived.
func drain(fds []int) {
	var b [4096]byte
	for _, fd := range fds {
		for n, err := unix.Read(fd, b[:]); n > 0 && err == nil; {
			n, err = unix.Read(fd, b[:])
		}
	}
}

// heapSize returns how many bytes of the heap are in use.
func heapSize() int64 {
	runtime.GC()
	runtime.GC() // the first one only takes things out of a sync.Pool
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}
