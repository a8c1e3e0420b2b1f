package announce

import (
	"cmp"
	"net/netip"
	"time"

	"ntrack/announce/wire"
)

// maxRoster bounds how many peers a roster remembers, whatever a tracker sends.
const maxRoster = 1 << 17

// A roster holds the peers of a track as far as one source has reported them.
//
// A peer that is no longer listed has not always left. A tracker that was restarted has forgotten
// its peers, so they get one ttl of grace to join again. A tracker that reports only a sample of a
// large track omits peers by chance, so several samples have to omit a peer before it counts as gone.
type roster struct {
	peers   map[netip.AddrPort]*sighting
	round   int           // counts the calls of update
	ttl     time.Duration // as last reported
	longest time.Duration // the longest ttl reported before a restart
	due     time.Time     // when the first grace ends; zero if no peer is in doubt
	// notify is called for every peer that was added or removed.
	notify func(e netip.AddrPort)
}

// A sighting is what a roster remembers of one peer.
type sighting struct {
	round    int       // the last update that listed the peer
	doubtful bool      // known from before a restart: the tracker may have forgotten the peer
	missing  time.Time // the first time since then that the peer was not listed; zero if it is listed
	// absence adds up the shares of the track in those samples that omitted the peer. If the peer
	// were still there, such a series of samples would have a probability of at most e^-absence.
	absence float64
}

// certain is the absence at which a peer has left: e^-14 is less than one in a million.
const certain = 14

// defaultTTL is the grace if a tracker has reported no ttl. It is the ttl at the usual interval.
const defaultTTL = 150 * time.Second

// maxTTL bounds the grace, whatever ttl a tracker reports: every peer renews more often.
const maxTTL = wire.MaxInterval * 5 / 2

// restarted puts all peers in doubt, since the tracker may have forgotten them. What was concluded
// from earlier absences no longer counts.
func (r *roster) restarted() {
	for _, s := range r.peers {
		*s = sighting{doubtful: true}
	}
	r.longest = max(r.longest, r.ttl)
}

// update replaces the list of peers. share is the part of the track that the list covers; 1 is all.
func (r *roster) update(peers []netip.AddrPort, share float64, now time.Time) {
	r.round++
	r.due = time.Time{}
	for _, e := range peers {
		r.add(e)
	}
	for e, s := range r.peers {
		if s.round == r.round {
			continue
		}
		if s.missing.IsZero() {
			s.missing = now
		}
		gone := now.Sub(s.missing) >= r.grace()
		if share < 1 {
			s.absence += share
			gone = gone && s.absence >= certain
		} else {
			gone = gone || !s.doubtful
		}
		if gone {
			r.remove(e)
		} else {
			r.await(s)
		}
	}
}

// add records that a peer is there.
func (r *roster) add(e netip.AddrPort) {
	s := r.peers[e]
	if s == nil {
		if len(r.peers) >= maxRoster {
			return
		}
		if r.peers == nil {
			r.peers = make(map[netip.AddrPort]*sighting)
		}
		s = new(sighting)
		r.peers[e] = s
		r.notify(e)
	}
	*s = sighting{round: r.round}
}

// remove records that a peer is gone.
func (r *roster) remove(e netip.AddrPort) {
	if r.peers[e] != nil {
		delete(r.peers, e)
		r.notify(e)
	}
}

// endGrace removes the peers whose grace is over. It is for event streams, which report every peer
// that joins again. After replies, only the next reply can show that a peer is still missing.
func (r *roster) endGrace(now time.Time) {
	if r.due.IsZero() || now.Before(r.due) {
		return
	}
	r.due = time.Time{}
	for e, s := range r.peers {
		switch {
		case s.missing.IsZero():
		case now.Sub(s.missing) >= r.grace():
			r.remove(e)
		default:
			r.await(s)
		}
	}
}

// await makes sure that due is no later than the end of a peer's grace.
func (r *roster) await(s *sighting) {
	if due := s.missing.Add(r.grace()); r.due.IsZero() || due.Before(r.due) {
		r.due = due
	}
}

// grace is how long a known peer may be missing. A tracker that was restarted may report a shorter
// ttl than before. Peers still renew by the longer one, so the longest counts.
func (r *roster) grace() time.Duration {
	return min(cmp.Or(max(r.ttl, r.longest), defaultTTL), maxTTL)
}
