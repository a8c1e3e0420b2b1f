package memory

// How a subscription holds its own peer: a held peer does not lapse. When its last subscription has
// ended, it lapses when its announces do.

import (
	"net/netip"
	"time"
)

// While the process of the tracker is suspended, for example by SIGSTOP, clients close their event
// streams. After that, their peers stay listed for regainTime, until they subscribe again. A client
// needs up to 25 seconds for that: it connects after at most 15, and waits for a reply for 10.
const regainTime = 30 * time.Second

// A heldPeer is a peer that subscriptions hold. Usually one subscription holds it, and it has not
// announced. Such a peer has no entry in watchers.heldPeers.
type heldPeer struct {
	holds int           // how many subscriptions hold the peer
	until time.Duration // when the announces of the peer lapse, in whole seconds; 0 without any
}

// heldPeer returns what is known about a peer that is held.
func (w *watchers) heldPeer(e netip.AddrPort) heldPeer {
	if p, found := w.heldPeers[e]; found {
		return p
	}
	return heldPeer{holds: 1}
}

func (w *watchers) setHeldPeer(e netip.AddrPort, p heldPeer) {
	if p == (heldPeer{holds: 1}) {
		delete(w.heldPeers, e)
		return
	}
	if w.heldPeers == nil {
		w.heldPeers = make(map[netip.AddrPort]heldPeer)
	}
	w.heldPeers[e] = p
}

// hold adds a hold on a peer. old is the expiry of the peer in the table, or 0 if the peer has just
// joined.
func (w *watchers) hold(e netip.AddrPort, old expiry, now time.Duration) {
	switch old {
	case 0: // there is nothing to keep
	case held:
		p := w.heldPeer(e)
		p.holds++
		w.setHeldPeer(e, p)
	default:
		until := now.Truncate(time.Second) + time.Duration(old.after(expiryAt(now)))*time.Second
		w.setHeldPeer(e, heldPeer{1, until})
	}
}

// extend records that an announce lists a held peer until a time.
func (w *watchers) extend(e netip.AddrPort, until time.Duration) {
	p := w.heldPeer(e)
	p.until = max(p.until, until)
	w.setHeldPeer(e, p)
}

// endHolds removes every hold on a peer that leaves, and ends the subscriptions that hold it.
func (w *watchers) endHolds(e netip.AddrPort) {
	delete(w.heldPeers, e)
	for tag, i := holderTag(e), 0; i < len(w.subs); i++ {
		if w.subs[i].tag != tag {
			continue
		}
		if sub := w.subs[i].subscription; sub.holding && sub.Self == e {
			sub.holding = false
			sub.End()
			sub.Notify()
		}
	}
}

// endAll removes every hold, and ends every subscription.
func (w *watchers) endAll() {
	clear(w.heldPeers)
	for _, sub := range w.subs {
		if sub.holding = false; sub.End() {
			sub.Notify()
		}
	}
}

// unhold removes one hold on a peer. After the last one, the peer stays listed until its announces
// lapse.
func (w *watchers) unhold(e netip.AddrPort) {
	p := w.heldPeer(e)
	if p.holds--; p.holds > 0 {
		w.setHeldPeer(e, p)
		return
	}
	delete(w.heldPeers, e)
	s := w.shard
	now := s.store.clock.now()
	if s.store.clock.justResumed() || w.justGaveUp(now) {
		p.until = max(p.until, now+regainTime)
	}
	key := []byte(w.key)
	_, hash := s.store.shardOf(key)
	h := s.lookup(key, hash)
	t := s.tracks.get(h)
	var buf [5]uint32
	peer := pack(&buf, e)
	tab := s.table(t, peer.family())
	i, _ := tab.find(peer) // the peer is there: a leave would have ended its holds
	if p.until <= now {
		s.remove(t, &tab, i)
		s.tidy(h)
		return
	}
	tab.at(i).setExpiry(expiryAt(p.until))
	s.lowerDue(h, expiryAt(p.until), expiryAt(now))
}
