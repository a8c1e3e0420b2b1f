package announce

import (
	"cmp"
	"context"
	"iter"
	"net/netip"
	"slices"
	"time"
)

// An EventType says what happened to a track.
type EventType string

// The events.
const (
	EventPeers EventType = "peers" // who is there: the first event, and the first after an error
	EventJoin  EventType = "join"
	EventLeave EventType = "leave"
)

// An Event is a change to a track.
type Event struct {
	Type EventType
	// Peer is who joined or left.
	Peer netip.AddrPort
	// Peers is everyone there once all changes known at this moment are made, sorted. Events share
	// it: do not change it.
	Peers []netip.AddrPort
}

// maxWatched bounds what a watch remembers, whatever a tracker sends.
const maxWatched = 1 << 17

// maxWant is how many peers a watch asks for: what trackers give at most unless told otherwise.
const maxWant = 1000

// Watch iterates over the changes of a track without joining it: first [EventPeers], then joins
// and leaves, until ctx ends or the loop is left. It polls at the tracker's interval, or
// every so often if every is above 0.
//
// An error is news and not the end: the loop may go on, and the watch tries again, less and less
// often up to the interval (with every, up to that or 10 s). A tracker that was away may have been restarted and know nobody, so
// peers known before get one ttl to come back; no leave is reported for them before. In a track
// that is larger than what the tracker gives, a peer missing from a sample has not left: its leave
// is reported when chance alone would have hidden it so often only once in a million.
func (c *Client) Watch(ctx context.Context, t Tracker, key Key, every time.Duration) iter.Seq2[Event, error] {
	return func(yield func(Event, error) bool) {
		var v view
		interval, failures := MinInterval, 0
		// lasting says that the next poll should find this connection alive: the tracker has not
		// said that it closes it, and has kept the one before, if there was one.
		lasting := false
		for {
			reply, cn, err := c.look(ctx, t, key, maxWant)
			if ctx.Err() != nil {
				return
			}
			pause := every
			if err != nil {
				failures++
				if !yield(Event{}, err) {
					return
				}
				most := interval
				if every > 0 {
					most = max(every, MinInterval)
				}
				pause = backoff(failures, most, err)
			} else {
				now := time.Now()
				back := failures > 0
				if back || lasting && !cn.reused {
					v.restarted(now)
				}
				interval, failures, lasting = reply.Interval, 0, cn.kept && (cn.reused || v.peers == nil)
				for _, ev := range v.update(reply, now, back) {
					if !yield(ev, nil) {
						return
					}
				}
				if pause == 0 {
					pause = jitter(interval, 0.1)
				}
			}
			if !wait(ctx, pause) {
				return
			}
		}
	}
}

// view is what a watch knows of a track.
type view struct {
	peers map[netip.AddrPort]*sight
	// since is when the tracker came back: what it does not list may be what it forgot.
	since time.Time
}

type sight struct {
	seen, missed time.Time // when last listed; when first not listed since
	// doubt is the sum of the shares of the track in samples that left the peer out; e^-doubt
	// bounds the chance that it was there all the same.
	doubt float64
}

// certain is the doubt at which a peer has left: e^-14 is below one in a million.
const certain = 14

// restarted takes back what was concluded from peers not being listed.
func (v *view) restarted(now time.Time) {
	v.since = now
	for _, s := range v.peers {
		s.missed, s.doubt = time.Time{}, 0
	}
}

// update takes in one reply, the first after an error if back, and returns what changed.
func (v *view) update(r *Reply, now time.Time, back bool) []Event {
	first := v.peers == nil
	if first {
		v.peers = make(map[netip.AddrPort]*sight)
	}
	var events []Event
	for _, p := range r.Peers {
		s := v.peers[p.Endpoint]
		if s == nil {
			if len(v.peers) >= maxWatched {
				continue
			}
			s = new(sight)
			v.peers[p.Endpoint] = s
			events = append(events, Event{Type: EventJoin, Peer: p.Endpoint})
		}
		*s = sight{seen: now}
	}
	for e, s := range v.peers {
		if s.seen != now && v.gone(s, r, now) {
			delete(v.peers, e)
			events = append(events, Event{Type: EventLeave, Peer: e})
		}
	}
	peers := make([]netip.AddrPort, 0, len(v.peers))
	for e := range v.peers {
		peers = append(peers, e)
	}
	slices.SortFunc(peers, netip.AddrPort.Compare)
	list := Event{Type: EventPeers, Peers: peers}
	if first {
		return []Event{list}
	}
	for i := range events {
		events[i].Peers = peers
	}
	slices.SortFunc(events, func(a, b Event) int {
		return cmp.Or(-cmp.Compare(a.Type, b.Type), a.Peer.Compare(b.Peer)) // leaves first
	})
	if back {
		events = append([]Event{list}, events...)
	}
	return events
}

// gone decides about a peer that the reply does not list.
func (v *view) gone(s *sight, r *Reply, now time.Time) bool {
	if s.missed.IsZero() {
		s.missed = now
	}
	ttl := r.TTL
	if ttl == 0 {
		ttl = r.Interval * 5 / 2
	}
	if !r.Sample {
		return !s.seen.Before(v.since) || now.Sub(s.missed) >= ttl
	}
	share := 0.05 // where the tracker does not say how large the track is
	if r.Count > 0 {
		share = float64(len(r.Peers)) / float64(r.Count)
	}
	s.doubt += share
	return s.doubt >= certain && now.Sub(s.missed) >= ttl
}
