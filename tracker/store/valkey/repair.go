package valkey

// How a mirror that missed something is repaired. A message may be lost, so the number of each track
// counts them. The database may have lost its data, which the epoch of the partition shows.

import (
	"crypto/rand"
	"strconv"
	"time"

	"github.com/redis/rueidis"
)

// A changeCount compares the messages that have arrived with the number of the track.
type changeCount struct {
	seen  int64 // the number when all of the track was read, and the messages since then
	known int64 // the number that was read last
	then  int64 // seen when that was asked for
}

// compare records a new number. Every message must be counted that had arrived before the previous one. A
// second later, all messages that it counts must have arrived. Otherwise all of the track is read.
func (rd *reading) compare() {
	t, c := rd.track, &rd.track.count
	if rd.all {
		// Messages that arrived during the reading may be counted in the number or not.
		*c = changeCount{seen: rd.numberIs, known: rd.numberIs, then: rd.numberIs}
		return
	}
	if rd.numberIs < c.then {
		t.readAgain()
	}
	c.known, c.then = rd.numberIs, rd.seen
}

// recheck is called a second or more after compare.
func (c *changeCount) recheck(t *track) {
	if c.seen < c.known {
		t.readAgain()
	}
}

// readAgain has all of the track read.
func (t *track) readAgain() {
	t.readAll = true
	t.part.markDirty(t)
}

// askEpoch adds the command that reads the epoch of the partition. It comes after all others: what was read
// before is of the same table.
func (r *round) askEpoch(q *pipeline) {
	p, b := r.part, r.part.store.client.B()
	key := p.store.epochKey(p.number)
	if p.epoch != "" {
		q.add(b.Get().Key(key).Build(), func(res rueidis.RedisResult) error {
			var err error
			if r.epoch, err = res.ToString(); err != nil {
				r.lost = true
			}
			return nil
		})
		return
	}
	fresh := rand.Text() + "-" + strconv.FormatInt(p.store.clock.second(), 10)
	q.add(b.Set().Key(key).Value(fresh).Nx().Get().Build(), func(res rueidis.RedisResult) error {
		var err error
		if r.epoch, err = res.ToString(); rueidis.IsRedisNil(err) {
			r.epoch = fresh
		}
		return nil
	})
}

// newEpoch records the epoch of the partition. If it had another, its table is lost: all subscriptions end.
// It returns the functions to call without the lock.
func (p *partition) newEpoch(epoch string) (notify []func()) {
	first := p.epoch == ""
	p.epoch = epoch
	if first {
		return nil
	}
	for _, t := range p.tracks {
		notify = append(notify, t.endAll()...)
		t.mirror, t.touched, t.touchIndex = mirror{}, nil, nil
		t.feed.Drop()
		t.gatherAt, t.flushAt = time.Time{}, time.Time{}
		for _, q := range t.requests {
			q.state, q.sub.holding = waits, false
		}
		t.readAll = true
		p.markDirty(t)
	}
	return notify
}
