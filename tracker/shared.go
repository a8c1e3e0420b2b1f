package tracker

import (
	"net/netip"

	"ntrack/announce/wire"
)

// A listing is what streams are listed as: an endpoint under a key.
type listing struct {
	key      string
	endpoint netip.AddrPort
}

// Sharers are the streams that are listed as the same and have given a peer id. Under different ids
// they are programs that take themselves for different peers, and are one.
type sharers struct {
	streams map[*Stream]struct{}
	ids     map[wire.ID]int // how many of the streams have given it
}

// share enters a stream, and unshare takes it out. Both are called with the Tracker's mu held.
func (t *Tracker) share(st *Stream) {
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
		s.tell(true)
	case len(s.ids) > 1:
		st.setShared(true)
	}
}

func (t *Tracker) unshare(st *Stream) {
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
		s.tell(false)
	}
}

func (s *sharers) tell(shared bool) {
	for st := range s.streams {
		st.setShared(shared)
	}
}

// setShared has the stream say whether another program is listed as the same endpoint.
func (s *Stream) setShared(shared bool) {
	s.mu.Lock()
	s.shared = shared
	s.mu.Unlock()
	s.wakeUp()
}

// sharing appends the event that says so, if that is new.
func (s *Stream) sharing(dst []byte) []byte {
	if s.shared == s.said {
		return dst
	}
	s.said = s.shared
	name := map[bool]string{true: "shared", false: "unshared"}[s.shared]
	return s.events.AppendEvent(dst, name, wire.Peer{Endpoint: s.endpoint})
}
