package announce

import (
	"cmp"
	"net/netip"
	"time"

	"ntrack/announce/wire"
)

// maxWatched bounds what a watch remembers of a tracker, whatever that sends.
const maxWatched = 1 << 17

// view is what a watch knows of a track by one tracker.
type view struct {
	peers map[netip.AddrPort]*sight
	round int           // of updates
	ttl   time.Duration // as told last
	past  time.Duration // the longest ttl that was told before a restart
	due   time.Time     // when the first grace ends; zero: nobody waits for that
	// change is told of every peer that has come or gone.
	change func(e netip.AddrPort, there bool)
}

type sight struct {
	round  int       // when last listed
	old    bool      // from before a restart: not being listed may be forgetfulness
	missed time.Time // when first not listed since
	// doubt is the sum of the shares of the track in samples that left the peer out; e^-doubt
	// bounds the chance that it was there all the same.
	doubt float64
}

// certain is the doubt at which a peer has left: e^-14 is below one in a million.
const certain = 14

// defaultTTL is the grace where a tracker has not told its ttl: that of the usual interval.
const defaultTTL = 150 * time.Second

// restarted takes back what was concluded from peers not being listed, and doubts all that is
// known: the tracker may have forgotten it.
func (v *view) restarted() {
	for _, s := range v.peers {
		*s = sight{old: true}
	}
	v.past = max(v.past, v.ttl)
}

// update takes in who is listed now: a share of the track, 1 for all of it.
func (v *view) update(peers []netip.AddrPort, share float64, now time.Time) {
	v.round++
	v.due = time.Time{}
	for _, e := range peers {
		v.see(e)
	}
	for e, s := range v.peers {
		if s.round == v.round {
			continue
		}
		if s.missed.IsZero() {
			s.missed = now
		}
		lapsed := now.Sub(s.missed) >= v.grace()
		if share < 1 {
			s.doubt += share
			lapsed = lapsed && s.doubt >= certain
		} else {
			lapsed = lapsed || !s.old
		}
		if lapsed {
			v.drop(e)
		} else {
			v.wait(s)
		}
	}
}

func (v *view) wait(s *sight) {
	if due := s.missed.Add(v.grace()); v.due.IsZero() || due.Before(v.due) {
		v.due = due
	}
}

// see takes in that a peer is there.
func (v *view) see(e netip.AddrPort) {
	s := v.peers[e]
	if s == nil {
		if len(v.peers) >= maxWatched {
			return
		}
		if v.peers == nil {
			v.peers = make(map[netip.AddrPort]*sight)
		}
		s = new(sight)
		v.peers[e] = s
		v.change(e, true)
	}
	*s = sight{round: v.round}
}

// drop takes in that a peer is gone.
func (v *view) drop(e netip.AddrPort) {
	if v.peers[e] != nil {
		delete(v.peers, e)
		v.change(e, false)
	}
}

// expire drops whose grace is over, where every change is told, so that silence means absence.
func (v *view) expire(now time.Time) {
	if v.due.IsZero() || now.Before(v.due) {
		return
	}
	v.due = time.Time{}
	for e, s := range v.peers {
		switch {
		case s.missed.IsZero():
		case now.Sub(s.missed) >= v.grace():
			v.drop(e)
		default:
			v.wait(s)
		}
	}
}

// forget drops everybody.
func (v *view) forget() {
	for e := range v.peers {
		v.drop(e)
	}
}

// maxTTL bounds the grace, whatever ttl a tracker tells: no peer renews less often.
const maxTTL = wire.MaxInterval * 5 / 2

// grace is how long who is known may be unlisted. A tracker that has just begun may tell a shorter
// ttl than the one by which peers renew that it had before.
func (v *view) grace() time.Duration {
	return min(cmp.Or(max(v.ttl, v.past), defaultTTL), maxTTL)
}
