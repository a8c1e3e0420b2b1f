package valkey

// How the leases of held peers are written, and renewed.

import (
	"math/rand/v2"
	"net/netip"
	"slices"
	"strconv"

	"github.com/redis/rueidis"

	"ntrack/tracker/store"
)

// write adds the commands that write leases. Those that follow from their results go to reports.
func (l *leases) write(q, reports *pipeline, second int64, lease score) {
	s := l.track.part.store
	k := l.track.keys
	l.lease = lease
	slices.SortFunc(l.peers, func(a, b netip.AddrPort) int { return setOf(a.Addr()) - setOf(b.Addr()) })
	for rest := l.peers; len(rest) > 0; {
		i := setOf(rest[0].Addr())
		n := 1
		for n < len(rest) && n < pageSize && setOf(rest[n].Addr()) == i {
			n++
		}
		peers := rest[:n]
		rest = rest[n:]
		members := make([]string, n)
		for j, e := range peers {
			members[j] = memberOf(e)
		}
		b := s.client.B()
		// The scores are read immediately before they are replaced.
		var before []score
		q.add(b.Zmscore().Key(k.sets[i]).Member(members...).Build(), func(res rueidis.RedisResult) error {
			scores, err := scoresOf(res, n)
			if err != nil {
				return err
			}
			for j, x := range scores {
				l.had(reports, second, i, peers[j], x)
			}
			before = scores
			return nil
		})
		zadd := b.Zadd().Key(k.sets[i]).Gt().ScoreMember()
		for _, m := range members {
			zadd = zadd.ScoreMember(lease.float(), m)
		}
		q.add(zadd.Build(), func(res rueidis.RedisResult) error {
			if err := res.Error(); err != nil { // the memory is full
				l.renew(reports, i, peers, before, second)
			}
			return nil
		})
		expires := int64(lease/2) + 2
		q.expireAt(k.sets[i], expires)
		q.expireAt(k.birth, expires)
	}
}

// renewScript renews the lease of peers that are listed, though the memory of the database is full: that takes
// no memory. KEYS has their set, and ARGV the lease and the members.
const renewScript = `#!lua flags=allow-oom
for i = 2, #ARGV do redis.call('ZADD', KEYS[1], 'XX', 'GT', ARGV[1], ARGV[i]) end
return 0`

// renew adds a command that renews leases which a full database has refused to write. The peers that are not
// listed are refused.
func (l *leases) renew(q *pipeline, set int, peers []netip.AddrPort, before []score, second int64) {
	args := []string{strconv.FormatFloat(l.lease.float(), 'f', 1, 64)}
	for j, e := range peers {
		if before[j].lapsed(second) {
			l.refused = append(l.refused, e)
		} else {
			args = append(args, memberOf(e))
		}
	}
	if len(args) > 1 {
		q.add(l.track.part.store.client.B().Eval().Script(renewScript).Numkeys(1).Key(l.track.keys.sets[set]).Arg(args...).Build(), nil)
	}
}

// had has the score that a peer had before its lease was written.
func (l *leases) had(reports *pipeline, second int64, set int, e netip.AddrPort, x score) {
	k, b := l.track.keys, l.track.part.store.client.B()
	joined := x.lapsed(second)
	if !joined && !x.lease() && x < l.lease {
		// The announce must not be forgotten: the peer stays listed until then if the stream ends.
		reports.add(b.Zadd().Key(k.announces).Gt().ScoreMember().ScoreMember(x.float(), memberOf(e)).Build(), nil)
		reports.expireAt(k.announces, int64(x/2)+1)
		if !l.cleaned {
			l.cleaned = true
			reports.add(b.Zremrangebyscore().Key(k.announces).Min("-inf").Max(strconv.FormatInt(second, 10)).Build(), nil)
		}
	}
	if !joined && x.lease() && x > l.least {
		if l.others == nil {
			l.others = make(map[netip.AddrPort]score)
		}
		l.others[e] = x
		if raised := l.leaseOf(e); raised > l.lease {
			reports.add(b.Zadd().Key(k.sets[set]).Gt().ScoreMember().ScoreMember(raised.float(), memberOf(e)).Build(), nil)
		}
	}
	if joined && len(l.reported) == 0 {
		fresh := strconv.FormatInt((second+1)<<changeShift|int64(rand.Uint32N(1<<(changeShift-1))), 10)
		reports.add(b.Set().Key(k.birth).Value(fresh).Nx().ExatTimestamp(int64(l.lease/2)+2).Build(), nil)
	}
	if joined || l.fresh[e] {
		l.reported = append(l.reported, e)
	}
}

// leaseOf returns the lease that was written for a peer. If another tracker holds the peer, too, a new lease is
// longer than that of the other, whose end would remove the peer otherwise.
func (l *leases) leaseOf(e netip.AddrPort) score {
	if other := l.others[e]; l.fresh[e] && other >= l.lease {
		return other + 2
	}
	return l.lease
}

// applyLeases records leases that have been written.
func (p *partition) applyLeases(r *round, l *leases) {
	t := l.track
	for _, e := range l.peers {
		h := t.holds[e]
		refused := slices.Contains(l.refused, e)
		switch {
		case h == nil && !refused && !p.holds(t.key, e):
			p.close(closing{t.key, e}, ending{lease: l.leaseOf(e)}) // the stream has ended meanwhile
		case h == nil:
		case refused && h.lease == 0:
			for _, q := range slices.Clone(t.requests) {
				if q.sub.Self == e && q.sub.holding {
					t.unhold(q.sub)
					p.settle(q, &store.FullError{What: store.FullMemory})
				}
			}
			p.tidy(t)
		case refused:
			p.renewAt = r.now
		default:
			if h.lease == 0 {
				h.began = r.now
			}
			h.shared = h.lease != 0 && l.others[e] > h.lease
			h.lease, h.missing = max(h.lease, l.leaseOf(e)), false
			if t.mirror.set(e, max(h.lease, t.mirror.get(e))) {
				t.record(e, true, r.now)
			}
		}
	}
	t.beginAll()
}

// holds reports whether a stream has begun to hold a peer again, after its track was forgotten.
func (p *partition) holds(key string, e netip.AddrPort) bool {
	t := p.tracks[key]
	return t != nil && t.holds[e] != nil
}
