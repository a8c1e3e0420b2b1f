package tracker

import (
	"context"
	"math"
	"math/rand/v2"
	"net/netip"
	"slices"
	"sync"
	"time"

	"ntrack/announce/wire"
	"ntrack/tracker/store"
)

// Heartbeat is the longest time in which nothing is sent on a stream. If there are no events for that
// long, a heartbeat is sent.
const Heartbeat = 15 * time.Second

const (
	// reconnectAfter is how long a client waits before it opens another stream, if its stream was
	// cut. So after a crash all are back within two seconds.
	reconnectAfter = 1500 * time.Millisecond
	// If the tracker ends all streams, each client waits for a random time. The longest is
	// spreadFor for every thousand peers of the track.
	spreadFor = 2 * time.Second
	// maxAppend is how many bytes of events Append appends, and at most one batch more. The rest
	// waits in the subscription, where it takes no memory for each stream.
	maxAppend = 64 << 10
)

// A Stream is an open event stream. It begins with the body of its [Response]. The server sends
// this, and then what Append appends, until Append says that the stream has ended, or until the
// client is gone. Then the server calls Close and ends the connection, which ends the reply. The
// client is listed until Close.
//
// An event takes these steps: the store collects the changes of a track for 50 ms, or for up to
// 500 ms on a busy track, so that changes that undo each other are not sent. Then a goroutine of the
// store makes them a batch, which all streams of the track share, and calls Stream.notify for each of
// them. If the server waits for events, notify wakes it. The server calls Append and writes the
// events to the connection. While the server cannot write, changes wait in the subscription, and the
// server is not woken again.
type Stream struct {
	t     *Tracker
	sub   store.Subscription
	share *share // nil if the client gave no peer id
	index int    // in t.streams; -1 after Close

	mu      sync.Mutex
	waker   Waker       // nil unless the server waits for events
	timer   *time.Timer // of the next heartbeat, if the server called KeepAlive
	token   uint32      // the tag of the client's token (tokens.go); 0 without one
	peers   int32       // how many peers the track has, according to the events so far
	beatDue bool        // it is time for a heartbeat
	client  [16]byte    // its address
	ending  bool        // EndStreams was called
	closed  bool
}

// A Waker is woken when a stream has something to send. Wake must not block, and must not call
// methods of the stream.
type Waker interface{ Wake() }

// openStream replies with an event stream. It appends the beginning of the stream to dst.
func (t *Tracker) openStream(ctx context.Context, c *Call, peer wire.Peer, s *scratch, resp *Response, dst []byte) ([]byte, error) {
	now, addr := t.meter.now(), peer.Endpoint.Addr()
	if err := t.checkRate(ctx, addr, &s.req, streamRate, 1, now); err != nil {
		return nil, err
	}
	st, key := &Stream{t: t, token: c.tokenTag, client: addr.As16()}, s.req.Key.Bytes()
	peers, size, sub, err := t.store.Subscribe(ctx, key, peer, st.notify, s.peers[:0])
	if err != nil {
		return nil, err
	}
	if peer.Endpoint.Port() != 0 {
		t.chargeKey(addr, size, now)
	}
	s.peers = peers[:0]
	st.mu.Lock()
	st.sub, st.peers = sub, int32(len(peers))
	st.mu.Unlock()
	t.mu.Lock()
	// The tokens and the denial may have changed since the call was admitted.
	st.ending = t.ended || !t.tokens.Load().haveTag(st.token) || t.denial.Load().checkDenial(&s.req, addr) != nil
	st.index = len(t.streams)
	t.streams = append(t.streams, st)
	if peer.ID != (wire.ID{}) && !t.ended {
		st.share = &share{listing: listing{string(key), peer.Endpoint}, id: peer.ID}
		t.addSharer(st)
	}
	t.mu.Unlock()
	resp.Stream, resp.Type = st, "text/event-stream"

	s.timing = t.timingOf(&s.req, now)
	age := time.Duration(-1)
	if s.req.Age {
		age = sub.Age()
	}
	dst = wire.AppendYou(dst, sub.Epoch(), peer.Endpoint, s.timing.ttl(size), reconnectAfter, age)
	st.mu.Lock()
	dst = st.appendShared(dst)
	st.mu.Unlock()
	return wire.AppendEvent(dst, "peers", peers...), nil
}

// Append appends to dst what the server has to send now. If live is false, the stream ends after
// that. If Append appends nothing, the stream wakes w once, as soon as there is something to send,
// but not after Close. Only one goroutine at a time may call Append.
func (s *Stream) Append(dst []byte, w Waker) (_ []byte, live bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.waker = nil
	before := len(dst)
	dst, live = s.appendNow(dst)
	switch {
	case len(dst) == before && live:
		s.waker = w
	case s.timer != nil && !s.closed:
		s.beatDue = false
		s.timer.Reset(Heartbeat)
	}
	return dst, live
}

// appendNow is Append without the wake and the timer. s.mu is locked.
func (s *Stream) appendNow(dst []byte) (_ []byte, live bool) {
	before := len(dst)
	dst = s.appendShared(dst)
	for {
		var batch *store.Batch
		if batch, live = s.sub.Next(); batch == nil {
			break
		}
		ev := batch.Derived(eventsOf).(*events)
		dst = append(dst, ev.text...)
		s.peers += ev.peers
		if len(dst)-before >= maxAppend {
			return dst, true
		}
	}
	if s.beatDue && len(dst) == before {
		dst = wire.AppendHeartbeat(dst)
	}
	if s.ending {
		ms := rand.Int64N(spreadFor.Milliseconds() * int64(1+s.peers/1000))
		dst = wire.AppendRetry(dst, time.Duration(ms)*time.Millisecond)
		live = false
	}
	return dst, live
}

// events are what all streams send of a batch.
type events struct {
	text  []byte
	peers int32 // how many more peers the track has
}

// eventsOf returns the *events of changes.
func eventsOf(changes []store.Change) any {
	ev := new(events)
	for _, c := range changes {
		name := "leave"
		if ev.peers--; c.Joined {
			name, ev.peers = "join", ev.peers+2
		}
		ev.text = wire.AppendEvent(ev.text, name, wire.Peer{Endpoint: c.Endpoint})
	}
	return ev
}

// notify wakes the server if it waits for events. The store calls it when there are changes.
func (s *Stream) notify() { s.change(func() {}) }

// change calls set, which changes fields of s, and wakes the server if it waits for events.
func (s *Stream) change(set func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	set()
	if w := s.waker; w != nil {
		s.waker = nil
		w.Wake()
	}
}

// KeepAlive makes Append append heartbeats, and takes a timer for that. A server that does not call
// it sends them itself ([wire.AppendHeartbeat]). Call it at most once, and before Append.
func (s *Stream) KeepAlive() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.timer = time.AfterFunc(Heartbeat, func() { s.change(func() { s.beatDue = true }) })
}

// Close ends the stream. Its peer leaves, unless it is still listed because of another stream or an
// announce. A second Close does nothing.
func (s *Stream) Close() {
	s.mu.Lock()
	s.closed, s.waker = true, nil
	if s.timer != nil {
		s.timer.Stop()
	}
	s.mu.Unlock()
	t := s.t
	t.mu.Lock()
	if end := len(t.streams) - 1; s.index >= 0 {
		t.streams[s.index] = t.streams[end]
		t.streams[s.index].index = s.index
		t.streams = slices.Delete(t.streams, end, end+1)
		s.index = -1
		t.removeSharer(s)
	}
	t.mu.Unlock()
	s.sub.Close()
}

// EndStreams ends all event streams, including later ones. It asks each client to reconnect after a
// random time, so that they do not all reconnect at once. A server calls it when it shuts down. For
// a net/http.Server pass it to RegisterOnShutdown: Shutdown waits for streams, but does not end
// them. If other trackers share the store, nobody sees these clients leave that reconnect to one of them
// in time ([store.HoldKeeper]).
func (t *Tracker) EndStreams() {
	t.once.Do(t.init)
	if s, ok := t.table.(store.HoldKeeper); ok {
		s.KeepHolds()
	}
	t.mu.Lock()
	t.ended = true
	t.mu.Unlock()
	t.endStreamsIf(func(*Stream) bool { return true })
}

// streamsPerLock is how many streams are looked at while other streams wait for t.mu to open or to close.
const streamsPerLock = 500

// endStreamsIf ends the event streams for which unwanted returns true, as EndStreams does. It may miss
// streams that open at the same time.
func (t *Tracker) endStreamsIf(unwanted func(*Stream) bool) {
	for end := math.MaxInt; end > 0; {
		end = t.endSome(end, unwanted)
	}
}

// endSome is endStreamsIf for the last of the streams before index end. It returns the index of the first
// of these. It goes backwards because Close moves the last stream to a free index: this stream has been
// looked at, or else it is still before the index.
func (t *Tracker) endSome(end int, unwanted func(*Stream) bool) (begin int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	end = min(end, len(t.streams))
	begin = max(0, end-streamsPerLock)
	for _, s := range t.streams[begin:end] {
		if unwanted(s) {
			s.change(func() { s.ending = true })
		}
	}
	return begin
}

// A share is what a stream with a peer id needs to notice other programs with the same listing.
type share struct {
	listing
	id wire.ID
	// Stream.mu guards these.
	shared bool // another program is listed as the same endpoint
	sent   bool // the value of shared that the client has
}

// A listing is what a peer is listed as: an endpoint under a key.
type listing struct {
	key      string
	endpoint netip.AddrPort
}

// sharers are all streams with a peer id that have the same listing. If their ids differ, they
// belong to different programs, which are listed as one peer. Usually there is one stream, and the
// maps are nil.
type sharers struct {
	only    *Stream // the only stream, if streams is nil
	streams map[*Stream]struct{}
	ids     map[wire.ID]int // how many of the streams have this id
}

// addSharer adds st to the streams with its listing. t.mu is locked.
func (t *Tracker) addSharer(st *Stream) {
	s := t.shared[st.share.listing]
	if s == nil {
		if t.shared == nil {
			t.shared = make(map[listing]*sharers)
		}
		t.shared[st.share.listing] = &sharers{only: st}
		return
	}
	if s.streams == nil {
		s.streams, s.ids = map[*Stream]struct{}{s.only: {}}, map[wire.ID]int{s.only.share.id: 1}
		s.only = nil
	}
	id := st.share.id
	s.streams[st] = struct{}{}
	switch s.ids[id]++; {
	case len(s.ids) == 2 && s.ids[id] == 1:
		s.setShared(true)
	case len(s.ids) > 1:
		st.change(func() { st.share.shared = true })
	}
}

// removeSharer undoes addSharer. t.mu is locked.
func (t *Tracker) removeSharer(st *Stream) {
	if st.share == nil {
		return
	}
	s, id := t.shared[st.share.listing], st.share.id
	if s.only == st {
		delete(t.shared, st.share.listing)
		return
	}
	delete(s.streams, st)
	if s.ids[id]--; s.ids[id] > 0 {
		return
	}
	switch delete(s.ids, id); len(s.ids) {
	case 0:
		delete(t.shared, st.share.listing)
	case 1:
		s.setShared(false)
	}
}

// setShared sets shared of all streams.
func (s *sharers) setShared(shared bool) {
	for st := range s.streams {
		st.change(func() { st.share.shared = shared })
	}
}

// appendShared appends an event if shared has changed: if another program has begun or stopped to
// share the listing.
func (s *Stream) appendShared(dst []byte) []byte {
	sh := s.share
	if sh == nil || sh.shared == sh.sent {
		return dst
	}
	sh.sent = sh.shared
	name := map[bool]string{true: "shared", false: "unshared"}[sh.shared]
	return wire.AppendEvent(dst, name, wire.Peer{Endpoint: sh.endpoint})
}
