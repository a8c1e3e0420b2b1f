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
	"ntrack/tracker/store"
	"ntrack/tracker/store/memory"
)

// BenchmarkServeBatch measures an announce without its system calls: to the same track, which stays
// in the CPU's cache, and to one of 10,000 tracks. Each peer has an address of its own, which has limits.
func BenchmarkServeBatch(b *testing.B) {
	s := &Server{Tracker: &tracker.Tracker{}}
	s.once.Do(s.init)
	w := &batch{now: time.Now()}
	remote := func(k, peer int) netip.AddrPort {
		return netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, byte(peer), byte(k >> 8), byte(k)}), 50_000)
	}
	const keys, peers = 10_000, 80
	request := func(k, peer int) []byte {
		return fmt.Appendf(nil, "GET /announce?info_hash=%%%02x%%%02xAB%%00%%d8%%1cdefghijklm%%7fop&peer_id=-qB4650-abcdefgh%04d&port=%d"+
			"&uploaded=0&downloaded=0&left=1&corrupt=0&key=1A2B3C4D&numwant=50&compact=1&no_peer_id=1&supportcrypto=1&redundant=0 HTTP/1.1\r\n"+
			"Host: 127.0.0.1:6969\r\nUser-Agent: qBittorrent/4.6.5\r\nAccept-Encoding: gzip\r\n\r\n", k/256, k%256, peer, 10000+peer)
	}
	for i := range keys * peers {
		w.serve(s, request(i%keys, i/keys), remote(i%keys, i/keys), direct, true, false)
	}
	var all [1024][]byte
	var from [1024]netip.AddrPort
	in := make([]byte, 0, 2048)
	for _, keys := range []int{1, keys} {
		for i := range all {
			all[i], from[i] = request(i*7919%keys, i%peers), remote(i*7919%keys, i%peers)
		}
		b.Run(fmt.Sprint(keys, " keys"), func(b *testing.B) {
			b.ReportAllocs()
			for i := 0; b.Loop(); i++ {
				w.serve(s, append(in, all[i%len(all)]...), from[i%len(from)], direct, true, false)
			}
		})
	}
}

// A noWaitStore says that it may block, and never does.
type noWaitStore struct{ *memory.Store }

func (noWaitStore) NeverBlocks() bool { return false }

// BenchmarkParked measures an announce with the system calls of the worker and of its client: served by the
// worker itself, and parked until a goroutine has served it. There are 64 clients with a connection
// each.
func BenchmarkParked(b *testing.B) {
	for _, way := range []struct {
		name  string
		store store.Store
	}{{"by the worker", memory.New()}, {"parked", noWaitStore{memory.New()}}} {
		b.Run(way.name, func(b *testing.B) {
			s := &Server{Tracker: &tracker.Tracker{Store: way.store}}
			s.once.Do(s.init)
			l, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				b.Fatal(err)
			}
			a := s.newEpollAcceptor(l).(*epollAcceptor)
			w := a.workers[0]
			request := []byte("GET /announce?info_hash=%00%ff%80%25%26%2b%3d%3f%0a%0d%20%7f%c3%28%fe%41%2f%23%01%9c&port=51413&compact=1 HTTP/1.1\r\nHost: t\r\n\r\n")
			var clients [64]int
			for i := range clients {
				fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
				if err != nil {
					b.Fatal(err)
				}
				clients[i] = fds[1]
				defer unix.Close(fds[1])
				w.addConn(fds[0], netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 0, 0, byte(i)}), 5000))
			}
			reply := make([]byte, 4096)
			raw, err := w.epoll.SyscallConn()
			if err != nil {
				b.Fatal(err)
			}
			poll := func(uintptr) bool {
				w.ready = epollNow(w.epollFD, w.events[:])
				return w.ready > 0 || w.parking.due()
			}
			b.ReportAllocs()
			before := cpuTime()
			for n := 0; b.Loop(); n++ {
				if n%len(clients) != 0 {
					continue
				}
				for _, c := range clients {
					_, _ = unix.Write(c, request)
				}
				for replies := 0; replies < len(clients); {
					if raw.Read(poll) != nil {
						w.housekeeping()
					} else {
						w.serveEvents()
						runtime.Gosched()
					}
					for ; replies < len(clients); replies++ {
						if k, _ := unix.Read(clients[replies], reply); k <= 0 {
							break
						}
					}
				}
			}
			b.ReportMetric(float64(cpuTime()-before)/float64(b.N), "cpu-ns/op")
			s.draining.Store(true)
			s.shuttingDown.Store(true)
			for _, w := range a.workers {
				w.run()
			}
			_ = l.Close()
			s.calls.abort()
		})
	}
}

// cpuTime returns the time of the CPUs that this process has used. Other programs of the machine hardly
// change it.
func cpuTime() time.Duration {
	var u unix.Rusage
	_ = unix.Getrusage(unix.RUSAGE_SELF, &u)
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
