package announce

import (
	"cmp"
	"net/netip"
	"time"

	"ntrack/announce/wire"
)

// maxRoster bounds how many peers a roster remembers, whatever a tracker sends.
const maxRoster = 1 << 17

// A roster holds the peers of a track that one source has reported.
//
// A peer that the tracker no longer lists may still be present. A restarted tracker has forgotten its
// peers, so they get one ttl of grace to join again. A tracker that reports only a sample of a large
// track omits peers by chance, so several samples have to omit a peer before it counts as gone.
type roster struct {
	peers   map[netip.AddrPort]*sighting
	updates int           // the number of calls of update
	ttl     time.Duration // the longest that the tracker has reported, up to maxTTL; 0 if it reported none
	due     time.Time     // when the first grace ends; zero if no peer is missing
	// notify is called after a peer is added or removed.
	notify func(e netip.AddrPort)
}

// A sighting is what a roster remembers of one peer.
type sighting struct {
	lastUpdate   int       // the number of the last update that listed the peer
	doubtful     bool      // not listed since a restart: the tracker may have forgotten the peer
	missingSince time.Time // when an update first omitted the peer; zero if none has omitted it
	// absence is the sum of the shares of the samples that have omitted the peer. A peer that is
	// present is omitted that often with a probability of at most e^-absence.
	absence float64
}

// certainAbsence is the absence at which a peer counts as gone: e^-14 is less than one in a million.
const certainAbsence = 14

// maxTTL is the longest ttl that a tracker needs: two and a half times the longest interval. It is the
// longest grace, and the grace if a tracker has reported no ttl, so that no peer counts as gone too
// early.
const maxTTL = wire.MaxInterval * 5 / 2

// restarted records that the tracker may have been restarted, and so may have forgotten all peers.
// Earlier absences no longer count.
func (r *roster) restarted() {
	for _, s := range r.peers {
		*s = sighting{doubtful: true}
	}
}

// recordTTL records a ttl that the tracker has reported. A restarted tracker may report a shorter ttl
// than before. Peers may still renew by the longer ttl, so the longest one counts.
func (r *roster) recordTTL(ttl time.Duration) { r.ttl = min(max(r.ttl, ttl), maxTTL) }

// update replaces the list of peers. share is the part of the track that the list covers. A list
// with a share below 1 is a sample.
func (r *roster) update(peers []netip.AddrPort, share float64, now time.Time) {
	r.updates++
	r.due = time.Time{}
	for _, e := range peers {
		r.add(e)
	}
	for e, s := range r.peers {
		if s.lastUpdate == r.updates {
			continue
		}
		if s.missingSince.IsZero() {
			s.missingSince = now
		}
		gone := now.Sub(s.missingSince) >= r.grace()
		if share < 1 {
			s.absence += share
			gone = gone && s.absence >= certainAbsence
		} else if !s.doubtful {
			gone = true
		}
		if gone {
			r.remove(e)
		} else {
			r.setDue(s)
		}
	}
}

// add records that a peer is present.
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
	*s = sighting{lastUpdate: r.updates}
}

// remove records that a peer is gone.
func (r *roster) remove(e netip.AddrPort) {
	if r.peers[e] != nil {
		delete(r.peers, e)
		r.notify(e)
	}
}

// endGrace removes the peers whose grace is over. It is for a source with an event stream, which
// reports every peer that joins again. A source that polls needs its next reply to remove a peer.
func (r *roster) endGrace(now time.Time) {
	if r.due.IsZero() || now.Before(r.due) {
		return
	}
	r.due = time.Time{}
	for e, s := range r.peers {
		switch {
		case s.missingSince.IsZero():
		case now.Sub(s.missingSince) >= r.grace():
			r.remove(e)
		default:
			r.setDue(s)
		}
	}
}

// setDue makes sure that r.due is no later than the end of the grace of a missing peer.
func (r *roster) setDue(s *sighting) {
	if due := s.missingSince.Add(r.grace()); r.due.IsZero() || due.Before(r.due) {
		r.due = due
	}
}

// grace is how long a peer may be missing before it counts as gone.
func (r *roster) grace() time.Duration { return cmp.Or(r.ttl, maxTTL) }
