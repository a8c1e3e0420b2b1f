package valkey

// What a round asks the database, and what it then changes: readings, and the mirrors of tracks.

import (
	"context"
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

// carryOut does a round: it closes and writes leases, sends the messages about them, and reads.
func (r *round) carryOut(ctx context.Context) error {
	if len(r.closings)+len(r.leases)+len(r.readings) == 0 {
		return nil
	}
	p := r.part
	writes, reports := &pipeline{part: p}, &pipeline{part: p}
	closed := make(map[string][]netip.AddrPort) // by key
	for c, end := range r.closings {
		keep := r.keep && !end.left
		writes.add(p.closeCommand(c, end, keep), func(res rueidis.RedisResult) error {
			if n, err := res.AsInt64(); err == nil && n != 0 && !keep {
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
		reports.report(p.store.keysOf([]byte(key)), r.second, string(kindTouched), peers)
	}
	for i := range r.leases {
		l := &r.leases[i]
		reports.report(l.track.keys, r.second, p.store.heldHead(r.serial), l.reported)
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
	for c, end := range r.closings {
		if p.closing[c] == end {
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
			if q.sub.Self.Port() != 0 {
				t.hold(q.sub)
				t.missing = t.missing || t.holds[q.sub.Self].missing
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
		if h := t.holds[e]; h != nil && h.left {
			// The peer was listed again between the Leave and its message. If this tracker did that, the end of
			// the lease removes it.
			t.part.close(closing{t.key, e}, ending{lease: h.lease, left: true})
			notify = t.dropHold(e)
		} else if h != nil && x.score < h.lease {
			t.lack(e) // another tracker, whose stream of the peer ended, has shortened the lease
		}
		if t.mirror.set(e, x.score) {
			t.record(e, true, r.now)
		}
		return notify
	}
	if h := t.holds[e]; h != nil && h.lease != 0 {
		if !h.left {
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
