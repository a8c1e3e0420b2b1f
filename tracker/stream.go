package tracker

import (
	"context"
	"math/rand/v2"
	"net/netip"
	"sync"
	"time"

	"ntrack/announce/wire"
	"ntrack/tracker/store"
)

const (
	// heartbeat is how often a stream without events sends a sign of life.
	heartbeat = 15 * time.Second
	// returnWithin is how long a client waits after its stream broke. When the tracker ends all
	// streams, each client waits for a random time, up to this for every thousand peers.
	returnWithin = 2 * time.Second
)

// A Stream is an open event stream. The body of its [Response] is the beginning. The server sends
// that and then what Append appends, until Append says that the stream has ended or the client is
// gone. Then it calls Close and ends the connection, which ends the reply. The client is a peer
// until Close.
//
// An event takes this way: the store collects the changes of a track for up to 50 ms, so that
// changes that undo each other are not sent. Then a goroutine of the store queues them for each
// subscription and calls notify, which calls wake if the server waits for events. wake starts or
// continues a goroutine of the server, which calls Append and writes the events to the connection.
// So a slow client blocks only its own goroutine. While that goroutine writes, changes collect in
// the subscription, and wake is not called again. The stream's own timer adds heartbeats in the
// same way.
type Stream struct {
	t     *Tracker
	sub   store.Subscription
	timer *time.Timer // of the heartbeat
	listing
	id wire.ID // the peer id that the client gave; zero if it only looks

	mu         sync.Mutex
	wake       func() // nil unless the server waits for events
	events     wire.EventWriter
	peers      int // in the track, as the client has been sent
	changes    []store.Change
	shared     bool // another program is listed as the same endpoint
	sharedSent bool // what the client was last sent about that
	beatDue    bool
	ending     bool // the tracker ends the stream
	closed     bool
}

// A listing is what a peer is listed as: an endpoint under a key.
type listing struct {
	key      string
	endpoint netip.AddrPort
}

// openStream replies with an event stream.
func (t *Tracker) openStream(ctx context.Context, key []byte, peer wire.Peer, s *scratch, resp *Response, dst []byte) ([]byte, error) {
	st := &Stream{t: t, listing: listing{string(key), peer.Endpoint}, id: peer.ID}
	peers, sub, err := t.store.Subscribe(ctx, key, peer, st.notify, s.peers[:0])
	if err != nil {
		return nil, err
	}
	s.peers = peers[:0]
	st.sub, st.peers = sub, len(peers)
	st.events.Epoch = sub.Epoch()
	st.timer = time.AfterFunc(heartbeat, st.beat)
	t.mu.Lock()
	if st.ending = t.ended; !t.ended {
		if t.streams == nil {
			t.streams = make(map[*Stream]struct{})
		}
		t.streams[st] = struct{}{}
		if st.id != (wire.ID{}) {
			t.addSharer(st)
		}
	}
	t.mu.Unlock()
	resp.Stream, resp.Type = st, "text/event-stream"

	dst = st.events.AppendYou(dst, peer.Endpoint, returnWithin)
	st.mu.Lock()
	dst = st.appendShared(dst)
	st.mu.Unlock()
	return st.events.AppendEvent(dst, "peers", peers...), nil
}

// Append appends to dst what there is to send. If live is false, that is the end of the stream. If
// it appends nothing, it calls wake once, as soon as there is something to send, unless Close is
// called first. wake must not block and must not call the stream.
func (s *Stream) Append(dst []byte, wake func()) (_ []byte, live bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.wake = nil
	given := len(dst)
	dst = s.appendShared(dst)
	changes, live := s.sub.Next(s.changes[:0])
	for _, c := range changes {
		name := "leave"
		if s.peers--; c.Joined {
			name, s.peers = "join", s.peers+2
		}
		dst = s.events.AppendEvent(dst, name, wire.Peer{Endpoint: c.Endpoint})
	}
	if s.changes = changes; cap(changes) > 16 {
		s.changes = nil
	}
	if s.beatDue {
		s.beatDue = false
		dst = s.events.AppendHeartbeat(dst)
	}
	if s.ending {
		ms := rand.Int64N(returnWithin.Milliseconds() * int64(1+s.peers/1000))
		dst = s.events.AppendRetry(dst, time.Duration(ms)*time.Millisecond)
		live = false
	}
	if live && len(dst) == given {
		s.wake = wake
	}
	return dst, live
}

// notify wakes the server if it waits. The store calls it when there are changes.
func (s *Stream) notify() { s.change(func() {}) }

// change changes a field and wakes the server if it waits.
func (s *Stream) change(field func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	field()
	if wake := s.wake; wake != nil {
		s.wake = nil
		wake()
	}
}

func (s *Stream) beat() {
	s.change(func() {
		if s.beatDue = true; !s.closed {
			s.timer.Reset(heartbeat)
		}
	})
}

// Close ends the stream. Its peer leaves unless another stream or an announce still lists it. Close
// may be called again.
func (s *Stream) Close() {
	s.mu.Lock()
	s.closed, s.wake = true, nil
	s.timer.Stop()
	s.mu.Unlock()
	s.t.mu.Lock()
	delete(s.t.streams, s)
	s.t.removeSharer(s)
	s.t.mu.Unlock()
	s.sub.Close()
}

// EndStreams ends all event streams, also those that are opened later. Each client is asked to
// return after a random time, so that not all return at once. A server that shuts down calls it.
// For a net/http.Server pass it to RegisterOnShutdown: its Shutdown waits for streams and does not
// end them.
func (t *Tracker) EndStreams() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.ended = true
	for s := range t.streams {
		s.change(func() { s.ending = true })
	}
}

// sharers are the streams with one listing that gave a peer id. If their ids differ, they belong to
// programs that believe to be different peers, but are listed as one.
type sharers struct {
	streams map[*Stream]struct{}
	ids     map[wire.ID]int // how many of the streams gave it
}

// addSharer and removeSharer are called with t.mu locked.
func (t *Tracker) addSharer(st *Stream) {
	s := t.sharers[st.listing]
	if s == nil {
		s = &sharers{make(map[*Stream]struct{}), make(map[wire.ID]int)}
		if t.sharers == nil {
			t.sharers = make(map[listing]*sharers)
		}
		t.sharers[st.listing] = s
	}
	s.streams[st] = struct{}{}
	switch s.ids[st.id]++; {
	case len(s.ids) == 2 && s.ids[st.id] == 1:
		s.setShared(true)
	case len(s.ids) > 1:
		st.change(func() { st.shared = true })
	}
}

func (t *Tracker) removeSharer(st *Stream) {
	s := t.sharers[st.listing]
	if s == nil {
		return
	}
	if _, in := s.streams[st]; !in {
		return
	}
	delete(s.streams, st)
	if s.ids[st.id]--; s.ids[st.id] > 0 {
		return
	}
	switch delete(s.ids, st.id); len(s.ids) {
	case 0:
		delete(t.sharers, st.listing)
	case 1:
		s.setShared(false)
	}
}

func (s *sharers) setShared(shared bool) {
	for st := range s.streams {
		st.change(func() { st.shared = shared })
	}
}

// appendShared appends an event if another program has begun or ceased to share the listing.
func (s *Stream) appendShared(dst []byte) []byte {
	if s.shared == s.sharedSent {
		return dst
	}
	s.sharedSent = s.shared
	name := map[bool]string{true: "shared", false: "unshared"}[s.shared]
	return s.events.AppendEvent(dst, name, wire.Peer{Endpoint: s.endpoint})
}
