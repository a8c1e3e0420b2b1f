// Package trackertest runs a tracker inside a test, for programs that use package announce.
package trackertest

import (
	"context"
	"net"
	"time"

	"ntrack/announce"
	"ntrack/tracker"
	"ntrack/tracker/server"
)

// patience is how long Close waits for requests before it cuts their connections.
const patience = time.Second

// A Server is a tracker in this process, on a free port of 127.0.0.1.
type Server struct {
	// Tracker names the tracker, for a Client.
	Tracker announce.Tracker

	server *server.Server
	ended  chan struct{}
}

// New starts a tracker, which lists nobody. It panics if the system gives it no port.
func New() *Server {
	s := new(Server)
	at, err := announce.ParseTracker(s.start("127.0.0.1:0"))
	if err != nil {
		panic(err)
	}
	s.Tracker = at
	return s
}

func (s *Server) start(addr string) (listening string) {
	l, err := net.Listen("tcp", addr)
	if err != nil {
		panic("trackertest: " + err.Error())
	}
	s.server, s.ended = &server.Server{Tracker: new(tracker.Tracker)}, make(chan struct{})
	go func() {
		defer close(s.ended)
		_ = s.server.Serve(l)
	}()
	return l.Addr().String()
}

// Restart ends the tracker as Close does, and starts another one at the same address. The new one
// lists nobody until its peers have announced again. Restart panics if another program has taken
// the port in the meantime.
func (s *Server) Restart() {
	s.Close()
	s.start(s.Tracker.HostPort())
}

// Close ends the tracker and its event streams. It waits for requests, but not longer than a
// second. A second Close does nothing.
func (s *Server) Close() {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	_ = s.server.Shutdown(ctx)
	<-s.ended
}
