package tracker

import (
	"context"
	"math/rand/v2"
	"sync"
	"time"

	"ntrack/announce/wire"
	"ntrack/tracker/store"
)

const (
	// heartbeat is how often a stream says that it is there.
	heartbeat = 15 * time.Second
	// comeBack is how soon a client whose stream broke may come back. When the tracker ends them,
	// each is told to come at a moment of its own within that for every thousand peers.
	comeBack = 2 * time.Second
)

// A Stream is an event stream that has been opened. The body of its [Response] is what it begins
// with. The door sends that and then what Next gives, until Next says that it has ended or the
// client is gone; then it calls Close and ends the connection, for only that ends the reply.
// The client is a peer until Close.
type Stream struct {
	t     *Tracker
	sub   store.Subscription
	beats *time.Timer
	listing
	id wire.ID // that it has given; zero where it only looks

	mu      sync.Mutex
	wake    func() // nil while the door knows that there is something
	events  wire.EventWriter
	peers   int // in the track, as far as the stream has told
	changes []store.Change
	shared  bool // with another program
	said    bool // that it is
	beat    bool // due
	ending  bool // the tracker ends it
	closed  bool
}

// stream answers with an event stream.
func (t *Tracker) stream(ctx context.Context, key []byte, peer wire.Peer, s *scratch, resp *Response, dst []byte) ([]byte, error) {
	st := &Stream{t: t, listing: listing{string(key), peer.Endpoint}, id: peer.ID}
	peers, sub, err := t.store.Subscribe(ctx, key, peer, st.wakeUp, s.peers[:0])
	if err != nil {
		return nil, err
	}
	s.peers = peers[:0]
	st.sub, st.peers = sub, len(peers)
	st.events.Epoch = sub.Epoch()
	st.beats = time.AfterFunc(heartbeat, st.heartbeat)
	t.mu.Lock()
	if st.ending = t.ended; !t.ended {
		if t.streams == nil {
			t.streams = make(map[*Stream]struct{})
		}
		t.streams[st] = struct{}{}
		if st.id != (wire.ID{}) {
			t.share(st)
		}
	}
	t.mu.Unlock()
	resp.Stream, resp.Type = st, "text/event-stream"

	dst = st.events.AppendYou(dst, peer.Endpoint, comeBack)
	st.mu.Lock()
	dst = st.sharing(dst)
	st.mu.Unlock()
	return st.events.AppendEvent(dst, "peers", peers...), nil
}

// Next appends to dst what there is to send. When live is false that is the end. When it appends
// nothing it will call wake, once, as soon as there is something, unless Close comes first: wake
// must not block, nor call the stream.
func (s *Stream) Next(dst []byte, wake func()) (_ []byte, live bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.wake = nil
	given := len(dst)
	dst = s.sharing(dst)
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
	if s.beat {
		s.beat = false
		dst = s.events.AppendHeartbeat(dst)
	}
	if s.ending {
		ms := rand.Int64N(comeBack.Milliseconds() * int64(1+s.peers/1000))
		dst = s.events.AppendRetry(dst, time.Duration(ms)*time.Millisecond)
		live = false
	}
	if live && len(dst) == given {
		s.wake = wake
	}
	return dst, live
}

// wakeUp is called when there is something to send.
func (s *Stream) wakeUp() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if wake := s.wake; wake != nil {
		s.wake = nil
		wake()
	}
}

func (s *Stream) heartbeat() {
	s.mu.Lock()
	s.beat = true
	if !s.closed {
		s.beats.Reset(heartbeat)
	}
	s.mu.Unlock()
	s.wakeUp()
}

// Close ends the stream: the peer is gone unless something else holds it. It may be called again.
func (s *Stream) Close() {
	s.mu.Lock()
	s.closed, s.wake = true, nil
	s.beats.Stop()
	s.mu.Unlock()
	s.t.mu.Lock()
	delete(s.t.streams, s)
	s.t.unshare(s)
	s.t.mu.Unlock()
	s.sub.Close()
}

// EndStreams ends every event stream, those to come included, and tells each client a moment of
// its own to come back, so that not all of them do at once. For a server that shuts down: a
// net/http.Server does not wait for streams unless this is among its RegisterOnShutdown.
func (t *Tracker) EndStreams() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.ended = true
	for s := range t.streams {
		s.mu.Lock()
		s.ending = true
		s.mu.Unlock()
		s.wakeUp()
	}
}
