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
	// A gap of longGap in which the process did not run may have made clients close their streams. The
	// server notices that within settleTime after the gap.
	longGap    = 20 * time.Second
	settleTime = 5 * time.Second
)

// A hold is a peer that subscriptions of this tracker hold.
type hold struct {
	subs  int   // how many
	lease score // as last written; 0 if it has not been written yet
	// missing is set if the peer has to be put back, or its lease has to be written for the first time.
	missing bool
	// shared is set if another tracker has written a lease since this one did. The peer has a stream there, so
	// the end of this hold does not end the lease. If that stream has ended as well, the lease lapses.
	shared bool
	// rewritten is when a lease was written for the peer again, as a renewal or because it was missing.
	rewritten time.Time
	// reported is set when the message about the first lease has arrived. A Leave whose message comes before
	// that one may be older than the hold.
	reported bool
	// left is set if the message of a Leave has arrived that is not older than the hold.
	left bool
}

// A closing is the lease of a peer whose last subscription has ended.
type closing struct {
	key      string
	endpoint netip.AddrPort
}

// closeScript ends a lease. KEYS are the set of the peer and that of announces. ARGV are the member,
// the lease and the second now. It returns 1 if it has changed the score of the peer.
const closeScript = `local s = tonumber(redis.call('ZSCORE', KEYS[1], ARGV[1]) or '')
if not s or s % 1 == 0 or s > tonumber(ARGV[2]) then return 0 end
local a = redis.call('ZSCORE', KEYS[2], ARGV[1])
if a then redis.call('ZREM', KEYS[2], ARGV[1]) end
if a and tonumber(a) > tonumber(ARGV[3]) then
redis.call('ZADD', KEYS[1], a, ARGV[1])
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
		h = &hold{missing: true, lease: t.part.closing[closing{t.key, sub.Self}]}
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
	if h.lease != 0 && !h.shared {
		t.part.close(closing{t.key, sub.Self}, h.lease)
	}
}

// forget removes a hold.
func (t *track) forget(e netip.AddrPort) {
	delete(t.holds, e)
	t.part.store.total.held.Add(-1)
	t.part.store.addrs.unhold(t.key, e)
}

// close has a lease closed.
func (p *partition) close(c closing, lease score) {
	if p.closing == nil {
		p.closing = make(map[closing]score)
	}
	p.closing[c] = lease
	p.signal()
}

// dropHold ends the subscriptions that hold a peer, which has left. The lease is not closed. It returns
// the functions to call without the lock.
func (t *track) dropHold(e netip.AddrPort) (notify []func()) {
	if t.holds[e] == nil {
		return nil
	}
	t.forget(e)
	for _, sub := range t.subs {
		if sub.Self == e && sub.holding {
			sub.holding = false
			notify = append(notify, sub.end())
		}
	}
	return notify
}

// endAll ends all subscriptions of a track, without closing leases.
func (t *track) endAll() (notify []func()) {
	for e := range t.holds {
		t.forget(e)
	}
	for _, sub := range t.subs {
		sub.holding = false
		notify = append(notify, sub.end())
	}
	return notify
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
// shortens the lease to regainTime.
func (p *partition) closeCommand(c closing, lease score, keep bool) rueidis.Completed {
	k, e := p.store.keysOf([]byte(c.key)), c.endpoint
	set, b := k.sets[setOf(e.Addr())], p.store.client.B()
	if keep {
		return b.Zadd().Key(set).Gt().ScoreMember().ScoreMember(p.store.leaseNow(regainTime).float(), memberOf(e)).Build()
	}
	return b.Eval().Script(closeScript).Numkeys(2).Key(set, k.announces).
		Arg(memberOf(e), strconv.FormatFloat(lease.float(), 'f', 1, 64), strconv.FormatInt(p.store.clock.second(), 10)).Build()
}
