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
	// heartbeat is how often a stream sends a heartbeat, even if there are no events.
	heartbeat = 15 * time.Second
	// reconnectAfter is how long a client waits before it opens another stream, if its stream was
	// cut. If the tracker ends all streams, each client waits for a random time. The longest is
	// reconnectAfter for every thousand peers of the track.
	reconnectAfter = 2 * time.Second
)

// A Stream is an open event stream. It begins with the body of its [Response]. The server sends
// this, and then what Append appends, until Append says that the stream has ended, or until the
// client is gone. Then the server calls Close and ends the connection, which ends the reply. The
// client is listed until Close.
//
// An event takes these steps: the store collects the changes of a track for up to 50 ms, so that
// changes that undo each other are not sent. Then a goroutine of the store queues the changes for
// each subscription and calls Stream.notify, which calls wake if the server waits for events. wake
// starts or continues a goroutine of the server. This goroutine calls Append, and writes the events
// to the connection. So a slow client blocks only its own goroutine. While this goroutine writes,
// changes wait in the subscription, and wake is not called again. A timer of the stream adds
// heartbeats in the same way.
type Stream struct {
	t     *Tracker
	sub   store.Subscription
	timer *time.Timer // of the heartbeat
	listing
	id wire.ID // the peer id that the client gave; zero if it only looks

	mu         sync.Mutex
	wake       func() // nil unless the server waits for events
	peers      int    // how many peers the track has, according to the events so far
	changes    []store.Change
	shared     bool // another program is listed as the same endpoint
	sharedSent bool // the value of shared that the client has
	beatDue    bool // it is time for a heartbeat
	ending     bool // EndStreams was called
	closed     bool
}

// A listing is what a peer is listed as: an endpoint under a key.
type listing struct {
	key      string
	endpoint netip.AddrPort
}

// openStream replies with an event stream. It appends the beginning of the stream to dst.
func (t *Tracker) openStream(ctx context.Context, key []byte, peer wire.Peer, s *scratch, resp *Response, dst []byte) ([]byte, error) {
	st := &Stream{t: t, listing: listing{string(key), peer.Endpoint}, id: peer.ID}
	peers, size, sub, err := t.store.Subscribe(ctx, key, peer, st.notify, s.peers[:0])
	if err != nil {
		return nil, err
	}
	s.peers = peers[:0]
	st.sub, st.peers = sub, len(peers)
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

	s.timing = t.timingOf(&s.req)
	dst = wire.AppendYou(dst, sub.Epoch(), peer.Endpoint, s.timing.ttl(size), reconnectAfter)
	st.mu.Lock()
	dst = st.appendShared(dst)
	st.mu.Unlock()
	return wire.AppendEvent(dst, "peers", peers...), nil
}

// Append appends to dst what the server has to send now. If live is false, the stream ends after
// that. If Append appends nothing, it calls wake once, as soon as there is something to send, but
// not after Close. wake must not block, and must not call methods of the stream.
func (s *Stream) Append(dst []byte, wake func()) (_ []byte, live bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.wake = nil
	before := len(dst)
	dst = s.appendShared(dst)
	changes, live := s.sub.Next(s.changes[:0])
	for _, c := range changes {
		name := "leave"
		if s.peers--; c.Joined {
			name, s.peers = "join", s.peers+2
		}
		dst = wire.AppendEvent(dst, name, wire.Peer{Endpoint: c.Endpoint})
	}
	if s.changes = changes; cap(changes) > 16 {
		s.changes = nil
	}
	if s.beatDue {
		s.beatDue = false
		dst = wire.AppendHeartbeat(dst)
	}
	if s.ending {
		ms := rand.Int64N(reconnectAfter.Milliseconds() * int64(1+s.peers/1000))
		dst = wire.AppendRetry(dst, time.Duration(ms)*time.Millisecond)
		live = false
	}
	if live && len(dst) == before {
		s.wake = wake
	}
	return dst, live
}

// notify wakes the server if it waits for events. The store calls it when there are changes.
func (s *Stream) notify() { s.change(func() {}) }

// change calls set, which changes fields of s, and wakes the server if it waits for events.
func (s *Stream) change(set func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	set()
	if wake := s.wake; wake != nil {
		s.wake = nil
		wake()
	}
}

// beat makes the stream send a heartbeat. The timer calls it.
func (s *Stream) beat() {
	s.change(func() {
		if s.beatDue = true; !s.closed {
			s.timer.Reset(heartbeat)
		}
	})
}

// Close ends the stream. Its peer leaves, unless it is still listed because of another stream or an
// announce. A second Close does nothing.
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

// EndStreams ends all event streams, including later ones. It asks each client to reconnect after a
// random time, so that they do not all reconnect at once. A server calls it when it shuts down. For
// a net/http.Server pass it to RegisterOnShutdown: Shutdown waits for streams, but does not end
// them.
func (t *Tracker) EndStreams() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.ended = true
	for s := range t.streams {
		s.change(func() { s.ending = true })
	}
}

// sharers are all streams with a peer id that have the same listing. If their ids differ, they
// belong to different programs, which are listed as one peer.
type sharers struct {
	streams map[*Stream]struct{}
	ids     map[wire.ID]int // how many of the streams have this id
}

// addSharer adds st to the streams with its listing. t.mu is locked.
func (t *Tracker) addSharer(st *Stream) {
	s := t.shared[st.listing]
	if s == nil {
		s = &sharers{make(map[*Stream]struct{}), make(map[wire.ID]int)}
		if t.shared == nil {
			t.shared = make(map[listing]*sharers)
		}
		t.shared[st.listing] = s
	}
	s.streams[st] = struct{}{}
	switch s.ids[st.id]++; {
	case len(s.ids) == 2 && s.ids[st.id] == 1:
		s.setShared(true)
	case len(s.ids) > 1:
		st.change(func() { st.shared = true })
	}
}

// removeSharer undoes addSharer. t.mu is locked.
func (t *Tracker) removeSharer(st *Stream) {
	s := t.shared[st.listing]
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
		delete(t.shared, st.listing)
	case 1:
		s.setShared(false)
	}
}

// setShared sets shared of all streams.
func (s *sharers) setShared(shared bool) {
	for st := range s.streams {
		st.change(func() { st.shared = shared })
	}
}

// appendShared appends an event if shared has changed: if another program has begun or stopped to
// share the listing.
func (s *Stream) appendShared(dst []byte) []byte {
	if s.shared == s.sharedSent {
		return dst
	}
	s.sharedSent = s.shared
	name := map[bool]string{true: "shared", false: "unshared"}[s.shared]
	return wire.AppendEvent(dst, name, wire.Peer{Endpoint: s.endpoint})
}
