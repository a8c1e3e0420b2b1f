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

// patience is how long Close waits for replies before it closes the connections.
const patience = time.Second

// A Server is a tracker in this process, on a free port of 127.0.0.1.
type Server struct {
	// Tracker is the address of the tracker, for an announce.Client.
	Tracker announce.Tracker

	server *server.Server
	ended  chan struct{}
}

// New starts a tracker without peers. It panics if no port is free.
func New() *Server {
	s := new(Server)
	named, err := announce.ParseTracker(s.start("127.0.0.1:0"))
	if err != nil {
		panic(err)
	}
	s.Tracker = named
	return s
}

// start starts a tracker at addr, and returns the address with its port.
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

// Restart ends the tracker as Close does, and starts another one at the same address. The new
// tracker has no peers until they announce again. Restart panics if another program has taken the
// port in the meantime.
func (s *Server) Restart() {
	s.Close()
	s.start(s.Tracker.HostPort())
}

// Close ends the tracker and its event streams. It waits for the replies to open requests, but for
// at most a second. Another Close does nothing.
func (s *Server) Close() {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	_ = s.server.Shutdown(ctx)
	<-s.ended
}
