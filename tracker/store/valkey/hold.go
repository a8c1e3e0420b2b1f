package valkey

// How a subscription holds its own peer. Its score in the database is a lease, which the partition
// renews (gather.go). When the last subscription of the peer has ended, closeScript ends the lease.

import (
	"net/netip"
	"strconv"
	"time"

	"github.com/redis/rueidis"

	"ntrack/tracker/store"
)

const (
	// A lease is renewed after a third of it, so two renewals in turn may fail.
	renewalsPerLease = 3
	// While the process is suspended, or the tracker hands its subscriptions over to others, clients
	// close their streams. Their peers stay listed for regainTime, until they subscribe again.
	regainTime = 30 * time.Second
	// A peer whose stream at this tracker has ended stays listed for sharedTime if it probably has a stream at
	// another tracker, which keeps the peer listed.
	sharedTime = 10 * time.Second
	// A gap of longGap in which the process did not run may have made clients close their streams. The
	// server notices that within settleTime after the gap.
	longGap    = 20 * time.Second
	settleTime = 5 * time.Second
)

// A hold is a peer that subscriptions of this tracker hold.
type hold struct {
	subs  int   // how many
	lease score // as last written; 0 if it has not been written yet
	// before is the end of the lease of an earlier hold, which has not been carried out yet.
	before ending
	// missing is set if the peer has to be put back, or its lease has to be written for the first time.
	missing bool
	// shared is set if another tracker has written a lease since this one did. The peer probably has a stream
	// there.
	shared bool
	// serial is that of the round that writes the first lease, and began is when it had done so.
	serial uint64
	began  time.Time
	// reported is set when the message about the first lease has arrived. A Leave whose message comes before
	// that one may be older than the hold.
	reported bool
	// left is set if the message of a Leave has arrived that is not older than the hold.
	left bool
}

// isReported reports whether a message that arrives now is not older than the hold. The message about the
// first lease may have been lost.
func (h *hold) isReported(now time.Time) bool {
	return h.reported || !h.began.IsZero() && now.Sub(h.began) > settleTime
}

// A closing is the lease of a peer whose last subscription has ended.
type closing struct {
	key      string
	endpoint netip.AddrPort
}

// An ending says how a lease is closed.
type ending struct {
	lease  score
	shared bool // as in hold: whichever tracker wrote the lease, it lapses in sharedTime
	left   bool // the peer has left, and does not stay listed until it returns
}

// closeScript ends a lease. KEYS are the set of the peer and that of announces. ARGV are the member,
// the lease, the second now, and the lease that remains if the peer has not announced; 0 is none. It returns 1
// if it has changed the score of the peer.
const closeScript = `local s = tonumber(redis.call('ZSCORE', KEYS[1], ARGV[1]) or '')
if not s or s % 1 == 0 or s > tonumber(ARGV[2]) then return 0 end
local a = redis.call('ZSCORE', KEYS[2], ARGV[1])
if a then redis.call('ZREM', KEYS[2], ARGV[1]) end
if a and tonumber(a) > tonumber(ARGV[3]) then
redis.call('ZADD', KEYS[1], a, ARGV[1])
elseif ARGV[4] ~= '0' then
redis.call('ZADD', KEYS[1], 'LT', ARGV[4], ARGV[1])
else
redis.call('ZREM', KEYS[1], ARGV[1])
end
return 1`

// hold adds the hold of a subscription.
func (t *track) hold(sub *subscription) *hold {
	h := t.holds[sub.Self]
	if h == nil {
		if t.holds == nil {
			t.holds = make(map[netip.AddrPort]*hold)
		}
		h = &hold{missing: true, before: t.part.closing[closing{t.key, sub.Self}]}
		t.holds[sub.Self] = h
		t.part.store.addrs.hold(t.key, sub.Self)
		t.part.store.total.held.Add(1)
		delete(t.part.closing, closing{t.key, sub.Self})
	}
	h.subs++
	sub.holding = true
	return h
}

// unhold removes the hold of a subscription. After the last one, the lease is closed.
func (t *track) unhold(sub *subscription) {
	sub.holding = false
	h := t.holds[sub.Self]
	if h == nil {
		return
	}
	if h.subs--; h.subs > 0 {
		return
	}
	t.forget(sub.Self)
	t.closeLease(sub.Self, h)
}

// closeLease has the lease of a hold closed, if there is one.
func (t *track) closeLease(e netip.AddrPort, h *hold) {
	if lease := max(h.lease, h.before.lease); lease != 0 {
		t.part.close(closing{t.key, e}, ending{lease: lease, shared: h.shared || h.lease == 0 && h.before.shared})
	}
}

// forget removes a hold.
func (t *track) forget(e netip.AddrPort) {
	delete(t.holds, e)
	t.part.store.total.held.Add(-1)
	t.part.store.addrs.unhold(t.key, e)
}

// close has a lease closed.
func (p *partition) close(c closing, end ending) {
	if p.closing == nil {
		p.closing = make(map[closing]ending)
	}
	p.closing[c] = end
	p.signal()
}

// dropHold ends the subscriptions that hold a peer, which has left. The lease is not closed. It returns
// the functions to call without the lock.
func (t *track) dropHold(e netip.AddrPort) (notify []func()) {
	if t.holds[e] == nil {
		return nil
	}
	t.forget(e)
	return t.endUnheld(func(self netip.AddrPort) bool { return self == e })
}

// endUnheld ends the subscriptions of peers whose hold was forgotten. Those that have not begun yet hold their
// peer again in the next round. It returns the functions to call without the lock.
func (t *track) endUnheld(forgotten func(self netip.AddrPort) bool) (notify []func()) {
	for _, q := range t.requests {
		q.sub.holding = q.sub.holding && !forgotten(q.sub.Self)
	}
	for _, sub := range t.subs {
		if sub.holding && forgotten(sub.Self) {
			sub.holding = false
			notify = append(notify, sub.end())
		}
	}
	return notify
}

// endRemoved ends the subscriptions of a track that another tracker has removed, but not those whose peers
// were held later.
func (t *track) endRemoved() (notify []func()) {
	now := time.Now()
	for e, h := range t.holds {
		if h.isReported(now) {
			t.forget(e)
			t.part.close(closing{t.key, e}, ending{lease: h.lease, left: true}) // it may have been renewed meanwhile
		} else if h.lease != 0 {
			t.lack(e)
		}
	}
	for _, sub := range t.subs {
		if !sub.holding {
			notify = append(notify, sub.end())
		}
	}
	return append(notify, t.endUnheld(func(self netip.AddrPort) bool { return t.holds[self] == nil })...)
}

// endAll ends all subscriptions of a track, without closing leases.
func (t *track) endAll() (notify []func()) {
	for e := range t.holds {
		t.forget(e)
	}
	for _, sub := range t.subs {
		notify = append(notify, sub.end())
	}
	return append(notify, t.endUnheld(func(netip.AddrPort) bool { return true })...)
}

func call(functions []func()) {
	for _, f := range functions {
		f()
	}
}

// endHolds ends the subscriptions of this tracker that hold a peer. Leave calls it before it removes the
// peer. Subscriptions of other trackers end when they get the message.
func (s *Store) endHolds(key []byte, e netip.AddrPort) {
	p := &s.watch.parts[partitionOf(key)]
	p.mu.Lock()
	delete(p.closing, closing{string(key), e})
	var notify []func()
	if t := p.tracks[string(key)]; t != nil {
		notify = t.dropHold(e)
	}
	p.mu.Unlock()
	call(notify)
}

// endTrack ends all subscriptions of this tracker to a key. Remove calls it before it removes the peers.
func (s *Store) endTrack(key []byte) {
	p := &s.watch.parts[partitionOf(key)]
	p.mu.Lock()
	for c := range p.closing {
		if c.key == string(key) {
			delete(p.closing, c)
		}
	}
	var notify []func()
	if t := p.tracks[string(key)]; t != nil {
		notify = t.endAll()
	}
	p.mu.Unlock()
	call(notify)
}

var _ store.HoldKeeper = (*Store)(nil)

// KeepHolds implements [store.HoldKeeper]: the peers stay listed for regainTime.
func (s *Store) KeepHolds() { s.watch.keepHolds.Store(true) }

// leaseNow returns the lease that begins now. It lapses at the first whole second after d.
func (s *Store) leaseNow(d time.Duration) score { return score(2*expiry(s.clock.nano(), d) - 1) }

// closeCommand returns the command that closes a lease. While clients may be about to return, it only
// changes the lease to regainTime.
func (p *partition) closeCommand(c closing, end ending, keep bool) rueidis.Completed {
	k, e := p.store.keysOf([]byte(c.key)), c.endpoint
	set, b := k.sets[setOf(e.Addr())], p.store.client.B()
	if keep {
		return b.Zadd().Key(set).Xx().Gt().ScoreMember().ScoreMember(p.store.leaseNow(regainTime).float(), memberOf(e)).Build()
	}
	upTo, remains := strconv.FormatFloat(end.lease.float(), 'f', 1, 64), "0"
	if end.shared {
		// If there is another stream, its tracker is notified, and writes its lease again.
		upTo, remains = "1e15", strconv.FormatFloat(p.store.leaseNow(sharedTime).float(), 'f', 1, 64)
	}
	return b.Eval().Script(closeScript).Numkeys(2).Key(set, k.announces).
		Arg(memberOf(e), upTo, strconv.FormatInt(p.store.clock.second(), 10), remains).Build()
}
