//go:build amd64 || arm64

package main

import (
	"bytes"
	"fmt"
	"slices"
	"syscall"
	"time"
)

// runStreamFloor is the floor of event streams. Like runFloor it has one thread and epoll, and makes
// only the system calls that no tracker can leave out. It keeps nothing for a stream but its file
// descriptor. 50 ms after an announce it sends a join to all streams, as long as a real one, and it
// sends a heartbeat on each stream within 15 seconds of the last event.
func runStreamFloor() error {
	f, err := newFloor()
	if err != nil {
		return err
	}
	const beats, tick = 15 * time.Second, 100 * time.Millisecond
	const never = time.Duration(1<<63 - 1)
	var (
		reply   = floorReply("X-Padding: close")
		opening = []byte("HTTP/1.1 200 OK\r\nDate: Thu, 01 Jan 1970 00:00:00 GMT\r\nContent-Type: text/event-stream\r\n" +
			"Cache-Control: no-store\r\nX-Accel-Buffering: no\r\nConnection: close\r\n\r\n" +
			"event: you\nid: aaaaaaaaaaaaa\nretry: 1500\ndata: \ndata: 38\n\nevent: peers\ndata: \n\n")
		heartbeat = []byte(":\n\n")
		streams   []int32
		event     []byte
		eventAt   = never       // since began
		lastEvent = -beats      // since began
		beatAt    time.Duration // since began
		beaten    int           // streams[:beaten] have had their heartbeat
		buf       [2048]byte    // for requests
		events    [64]syscall.EpollEvent
		began     = time.Now()
	)
	for {
		now := time.Since(began)
		if now >= eventAt {
			for _, fd := range streams {
				f.write(int(fd), event)
			}
			eventAt, lastEvent = never, now
		}
		if now >= beatAt {
			beatAt = now + tick
			if now-lastEvent >= beats {
				for range (len(streams)*int(tick/time.Millisecond) + int(beats/time.Millisecond) - 1) / int(beats/time.Millisecond) {
					if beaten++; beaten >= len(streams) {
						beaten = 0
					}
					f.write(int(streams[beaten]), heartbeat)
				}
			}
		}
		n, err := f.wait(events[:], max(0, min(eventAt, beatAt)-time.Since(began)))
		if err != nil {
			return err
		}
		for _, e := range events[:n] {
			if int(e.Fd) == f.listener {
				for fd, ok := f.accept(); ok; fd, ok = f.accept() {
					f.watch(fd, syscall.EPOLLIN)
				}
				continue
			}
			k, errno := f.read(int(e.Fd), buf[:])
			switch request := buf[:max(k, 0)]; {
			case errno == syscall.EAGAIN:
			case k <= 0:
				f.close(int(e.Fd))
				if i := slices.Index(streams, e.Fd); i >= 0 {
					streams = slices.Delete(streams, i, i+1)
				}
			case bytes.Contains(request, []byte("text/event-stream")):
				f.write(int(e.Fd), opening)
				streams = append(streams, e.Fd)
			default:
				f.write(int(e.Fd), reply)
				target, _, _ := bytes.Cut(request, []byte(" HTTP/"))
				port := target[bytes.LastIndexByte(target, '=')+1:]
				event, eventAt = fmt.Appendf(event[:0], "event: join\ndata: 127.0.0.1:%s\n\n", port), time.Since(began)+50*time.Millisecond
			}
		}
	}
}
