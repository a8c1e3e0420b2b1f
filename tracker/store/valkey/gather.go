package valkey

import (
	"context"
	"errors"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strconv"
	"time"

	"github.com/redis/rueidis"

	"ntrack/tracker/store"
)

const (
	// pageSize is how many peers one command reads or writes.
	pageSize = 1000
	// maxNamed is how many peers one message names.
	maxNamed = 100
	// maxPipeline is how many commands are sent at once.
	maxPipeline = 500
)

// A readingResult is what was read.
type readingResult struct {
	requests []*request // that wait for all of the track
	scores   []scored
	tooLarge bool
	pages    []int // the sets that have more than one page
	numberIs int64 // the number of the track; 0 if there is none
}

// A scored is a peer with its score, or 0 if it is not in the database. kind is that of the message that
// named it.
type scored struct {
	peer  netip.AddrPort
	score score
	kind  byte
	order int // among the touched peers of a reading
}

// A pipeline is commands, and what to do with their results.
type pipeline struct {
	part     *partition
	commands []rueidis.Completed
	results  []func(rueidis.RedisResult) error
}

func (q *pipeline) add(c rueidis.Completed, result func(rueidis.RedisResult) error) {
	q.commands, q.results = append(q.commands, c.ToRetryable()), append(q.results, result)
}

// run sends the commands. It returns the first error of the connection or the database. A result that is
// nil is no error, nor is a refusal because the memory is full.
func (q *pipeline) run(ctx context.Context) error {
	s := q.part.store
	for len(q.commands) > 0 {
		n := min(len(q.commands), maxPipeline)
		began := time.Now()
		bounded, cancel := context.WithTimeout(ctx, callTimeout)
		results := s.client.DoMulti(bounded, q.commands[:n]...)
		cancel()
		for i, r := range results {
			err := r.Error()
			if rueidis.IsRedisNil(err) || isFull(err) {
				err = nil
			}
			if f := q.results[i]; f != nil && err == nil {
				err = f(r)
			}
			if err != nil {
				err = unavailable(err)
				s.calls.failed(err)
				return err
			}
		}
		s.calls.succeeded(began)
		q.commands, q.results = q.commands[n:], q.results[n:]
	}
	return nil
}

// isFull reports whether the database refuses a command because its memory is full.
func isFull(err error) bool {
	var full *store.FullError
	return err != nil && errors.As(classify(err), &full)
}

// carryOut does a round: it closes and writes leases, sends the messages about them, and reads.
func (r *round) carryOut(ctx context.Context) error {
	if len(r.closings)+len(r.leases)+len(r.readings) == 0 {
		return nil
	}
	p := r.part
	writes, reports := &pipeline{part: p}, &pipeline{part: p}
	closed := make(map[string][]netip.AddrPort) // by key
	for c, lease := range r.closings {
		writes.add(p.closeCommand(c, lease, r.keep), func(res rueidis.RedisResult) error {
			if n, err := res.AsInt64(); err == nil && n != 0 && !r.keep {
				closed[c.key] = append(closed[c.key], c.endpoint)
			}
			return nil
		})
	}
	lease := p.store.leaseNow(p.store.lease)
	for i := range r.leases {
		r.leases[i].write(writes, reports, r.second, lease)
	}
	if err := writes.run(ctx); err != nil {
		return err
	}
	for key, peers := range closed {
		reports.report(p.store.keysOf([]byte(key)), r.second, peers)
	}
	for i := range r.leases {
		l := &r.leases[i]
		reports.report(l.track.keys, r.second, l.reported)
	}
	for _, rd := range r.readings {
		rd.ask(reports)
	}
	r.askEpoch(reports)
	if err := reports.run(ctx); err != nil {
		return err
	}
	verify := &pipeline{part: p}
	for _, rd := range r.readings {
		if rd.pages != nil {
			rd.askRest(verify)
		}
	}
	if len(verify.commands) == 0 {
		return nil
	}
	if err := verify.run(ctx); err != nil {
		return err
	}
	for _, rd := range r.readings {
		if rd.pages != nil && !rd.tooLarge {
			rd.askUnseen(verify)
		}
	}
	r.askEpoch(verify)
	return verify.run(ctx)
}

// report adds the commands that send messages about peers. Those in one message are of one family.
func (q *pipeline) report(k *trackKeys, second int64, peers []netip.AddrPort) {
	var members [2][]string
	for _, e := range peers {
		i := 0
		if e.Addr().Is4() {
			i = 1
		}
		members[i] = append(members[i], memberOf(e))
	}
	for _, family := range members {
		for some := range slices.Chunk(family, maxNamed) {
			for _, c := range q.part.store.appendChange(nil, k, second, kindTouched, some...) {
				q.add(c, nil)
			}
		}
	}
}

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

// expireAt lets a key expire at a second, or later if it would anyway.
func (q *pipeline) expireAt(key string, second int64) {
	b := q.part.store.client.B()
	q.add(b.Expireat().Key(key).Timestamp(second).Nx().Build(), nil)
	q.add(b.Expireat().Key(key).Timestamp(second).Gt().Build(), nil)
}

// scoresOf returns the scores in the reply to ZMSCORE, 0 for a peer that is not there.
func scoresOf(res rueidis.RedisResult, n int) ([]score, error) {
	values, err := res.ToArray()
	if err != nil || len(values) != n {
		return nil, errors.New("a reply of the database has the wrong length")
	}
	scores := make([]score, n)
	for i := range values {
		if f, err := values[i].AsFloat64(); err == nil {
			scores[i] = scoreOf(f)
		}
	}
	return scores, nil
}

// ask adds the commands of a reading.
func (rd *reading) ask(q *pipeline) {
	k, b := rd.track.keys, q.part.store.client.B()
	if rd.number {
		q.add(b.Get().Key(k.birth).Build(), func(res rueidis.RedisResult) error {
			rd.numberIs, _ = res.AsInt64()
			return nil
		})
	}
	if rd.all {
		for i := range k.sets {
			rd.askPage(q, i, 0, func(full bool) {
				if full {
					rd.pages = append(rd.pages, i)
				}
			})
		}
	}
	var peers []scored
	for i, x := range rd.touched {
		peers = append(peers, scored{peer: x.peer, kind: x.kind, order: i})
	}
	for _, e := range rd.lapsed {
		peers = append(peers, scored{peer: e, kind: kindTouched})
	}
	rd.askScores(q, peers)
}

// askPage adds a command that reads peers of a set.
func (rd *reading) askPage(q *pipeline, set, page int, got func(full bool)) {
	b := q.part.store.client.B()
	from, to := strconv.Itoa(page*pageSize), strconv.Itoa((page+1)*pageSize-1)
	q.add(b.Zrange().Key(rd.track.keys.sets[set]).Min(from).Max(to).Withscores().Build(), func(res rueidis.RedisResult) error {
		values, err := res.AsZScores()
		if err != nil {
			return err
		}
		for _, v := range values {
			if e, ok := endpointOf(v.Member); ok {
				rd.scores = append(rd.scores, scored{peer: e, score: scoreOf(v.Score), kind: kindTouched})
			}
		}
		got(len(values) == pageSize)
		return nil
	})
}

// askRest adds commands that read the rest of sets with more than one page.
func (rd *reading) askRest(q *pipeline) {
	for _, set := range rd.pages {
		for page := 1; page <= maxMirrored/pageSize; page++ {
			rd.askPage(q, set, page, func(full bool) {
				rd.tooLarge = rd.tooLarge || full && page == maxMirrored/pageSize
			})
		}
	}
}

// askUnseen adds commands that read the peers of the mirror that no page had. Between two pages the ranks
// may shift, so such a peer may be there.
func (rd *reading) askUnseen(q *pipeline) {
	p := rd.track.part
	seen := make(map[netip.AddrPort]bool, len(rd.scores))
	for _, x := range rd.scores {
		seen[x.peer] = true
	}
	var unseen []scored
	p.mu.Lock()
	rd.track.mirror.each(func(e netip.AddrPort, _ score) {
		if !seen[e] {
			unseen = append(unseen, scored{peer: e, kind: kindTouched})
		}
	})
	p.mu.Unlock()
	rd.askScores(q, unseen)
}

// askScores adds commands that read the scores of peers.
func (rd *reading) askScores(q *pipeline, peers []scored) {
	slices.SortFunc(peers, func(a, b scored) int { return setOf(a.peer.Addr()) - setOf(b.peer.Addr()) })
	b := q.part.store.client.B()
	for len(peers) > 0 {
		i := setOf(peers[0].peer.Addr())
		n := 1
		for n < len(peers) && n < pageSize && setOf(peers[n].peer.Addr()) == i {
			n++
		}
		some := peers[:n]
		peers = peers[n:]
		members := make([]string, n)
		for j := range some {
			members[j] = memberOf(some[j].peer)
		}
		q.add(b.Zmscore().Key(rd.track.keys.sets[i]).Member(members...).Build(), func(res rueidis.RedisResult) error {
			scores, err := scoresOf(res, n)
			if err != nil {
				return err
			}
			for j, x := range scores {
				some[j].score = x
			}
			rd.scores = append(rd.scores, some...)
			return nil
		})
	}
}

// apply changes the mirrors after a round, and returns the functions to call without the lock.
func (p *partition) apply(r *round) (notify []func()) {
	if len(r.closings)+len(r.leases)+len(r.readings) > 0 {
		p.retry, p.lastError = 0, nil
	}
	for c, lease := range r.closings {
		if p.closing[c] == lease {
			delete(p.closing, c)
		}
	}
	if r.renewal {
		p.renewAt = r.now.Add(p.store.lease / renewalsPerLease)
	}
	if r.counting {
		p.countAt = r.now.Add(countInterval)
	}
	for i := range r.leases {
		p.applyLeases(r, &r.leases[i])
	}
	if r.epoch != "" && r.epoch != p.epoch || r.lost {
		notify = append(notify, p.newEpoch(r.epoch)...)
		if r.lost {
			return notify
		}
	}
	for _, rd := range r.readings {
		notify = append(notify, rd.apply(r)...)
	}
	now := time.Now()
	for t := range p.dirty {
		if !t.flushAt.IsZero() && !t.flushAt.After(now) {
			notify = append(notify, t.flush(now))
		}
	}
	return notify
}

// applyLeases records leases that have been written.
func (p *partition) applyLeases(r *round, l *leases) {
	t := l.track
	for _, e := range l.reported {
		if h := t.holds[e]; h != nil {
			h.announced = true
		}
	}
	for _, e := range l.peers {
		h := t.holds[e]
		refused := slices.Contains(l.refused, e)
		switch {
		case h == nil && !refused && !p.holds(t.key, e):
			p.close(closing{t.key, e}, l.leaseOf(e)) // the stream has ended meanwhile
		case h == nil:
		case refused && h.lease == 0:
			for _, q := range slices.Clone(t.requests) {
				if q.sub.self == e && q.sub.holding {
					t.unhold(q.sub)
					p.settle(q, &store.FullError{What: store.FullMemory})
				}
			}
			p.tidy(t)
		case refused:
			p.renewAt = r.now
		default:
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

// apply compares a reading with the mirror.
func (rd *reading) apply(r *round) (notify []func()) {
	t := rd.track
	p := t.part
	if rd.tooLarge {
		return append(notify, t.refuse()...)
	}
	if rd.number {
		t.birth = rd.numberIs >> changeShift
		rd.compare()
	}
	listed := 0
	var seen map[netip.AddrPort]bool
	if rd.all {
		t.readAll = false
		seen = make(map[netip.AddrPort]bool, len(rd.scores))
	}
	slices.SortStableFunc(rd.scores, func(a, b scored) int { return a.order - b.order })
	for _, x := range rd.scores {
		if seen != nil {
			seen[x.peer] = true
		}
		if !x.score.lapsed(r.second) {
			listed++
		}
		notify = append(notify, t.update(x, r)...)
	}
	if rd.all {
		var gone []netip.AddrPort
		t.mirror.each(func(e netip.AddrPort, _ score) {
			if !seen[e] {
				gone = append(gone, e)
			}
		})
		for _, e := range gone {
			notify = append(notify, t.update(scored{peer: e, kind: kindTouched}, r)...)
		}
	}
	if len(rd.touched) > 0 && !t.flushAt.IsZero() {
		t.flushAt = r.now
	}
	for _, q := range rd.requests {
		switch {
		case q.state != waits:
		case listed > maxStreamed:
			p.settle(q, &store.FullError{What: "peers of this key for an event stream", Max: maxStreamed, Stream: true})
		default:
			q.state = read
			if q.sub.self.Port() != 0 {
				t.hold(q.sub)
				t.missing = t.missing || t.holds[q.sub.self].missing
			}
			p.markDirty(t)
		}
	}
	p.tidy(t)
	t.beginAll()
	return notify
}

// update records the score that a peer has in the database.
func (t *track) update(x scored, r *round) (notify []func()) {
	e := x.peer
	if !x.score.lapsed(r.second) {
		if t.mirror.set(e, x.score) {
			t.record(e, true, r.now)
		}
		return nil
	}
	if h := t.holds[e]; h != nil && h.lease != 0 {
		if x.kind != kindLeft {
			t.lack(e)
			return nil
		}
		notify = t.dropHold(e)
	} else if x.kind != kindLeft && r.now.Before(t.part.uncertainUntil) && t.mirror.get(e) != 0 {
		t.touch(e, x.kind, t.part.uncertainUntil)
		return nil
	}
	if t.mirror.remove(e) {
		t.record(e, false, r.now)
	}
	return notify
}

// lack notes that a peer that this tracker holds has to be put back.
func (t *track) lack(e netip.AddrPort) {
	t.holds[e].missing, t.missing = true, true
	t.part.markDirty(t)
}

// touch notes that a peer has to be read at this time.
func (t *track) touch(e netip.AddrPort, kind byte, at time.Time) {
	if i, found := t.touchIndex[e]; !found {
		if t.touchIndex == nil {
			t.touchIndex = make(map[netip.AddrPort]int)
		}
		t.touchIndex[e] = len(t.touched)
		t.touched = append(t.touched, touched{e, kind})
	} else if kind == kindLeft {
		t.touched[i].kind = kind
	}
	if len(t.touched) > maxTouched {
		t.touched, t.touchIndex, t.readAll = nil, nil, true
	}
	if t.gatherAt.IsZero() || at.Before(t.gatherAt) {
		t.gatherAt = at
	}
	t.part.markDirty(t)
}

// refuse ends the subscriptions and requests of a track that has become too large.
func (t *track) refuse() []func() {
	for len(t.requests) > 0 {
		q := t.requests[0]
		if q.sub.holding {
			t.unhold(q.sub)
		}
		t.part.settle(q, &store.FullError{What: "peers of this key for an event stream", Max: maxStreamed, Stream: true})
	}
	var notify []func()
	for _, sub := range t.subs {
		notify = append(notify, sub.end())
	}
	t.readAll = false
	t.part.tidy(t)
	return notify
}
