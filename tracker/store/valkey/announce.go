package valkey

import (
	"context"
	"errors"
	"math/rand/v2"
	"net/netip"
	"strconv"
	"time"

	"github.com/redis/rueidis"

	"ntrack/announce/wire"
	"ntrack/tracker/store"
)

const (
	// maxTTL is the longest ttl; the contract allows a store to shorten longer ones.
	maxTTL = 4 * time.Hour
	// floorTime is for how long an announce lists its peer before it knows the ttl. The second pipeline
	// then raises the expiry.
	floorTime = 3 // seconds
	// maxLapsed is how many lapsed peers an announce removes, and more only if they all lapsed in the
	// same second.
	maxLapsed = 1000
)

// Announce implements [store.Store]. It sends one pipeline, which lists the peer, counts, and reads a
// sample. If the ttl depends on the size of the track, or the peer has joined, there is a second one. No
// step has to be atomic: an expiry is only ever raised (GT). Of two peers that announce at the same time,
// the one whose first pipeline comes later reads the other.
//
// If a tracker stops between its two pipelines, the peer lapses after some seconds. A set that it began
// then stays in the database, empty but for that peer, until somebody announces to it.
func (s *Store) Announce(ctx context.Context, key []byte, peer wire.Peer, ttl func(store.Size) time.Duration, want store.Want, dst []wire.Peer) ([]wire.Peer, store.Result, error) {
	if err := s.admit(ctx, key, peer.Endpoint); err != nil {
		return dst, store.Result{}, err
	}
	a := announce{query: s.newQuery(key, peer.Endpoint, want), ttl: ttl}
	defer a.free()
	given, res, err := a.run(ctx, dst)
	if full, ok := errors.AsType[*store.FullError](err); ok {
		given, res, err = a.renewInFull(ctx, dst, full)
	}
	s.addrs.finish(key, peer.Endpoint, a.until, err == nil)
	if err != nil {
		return dst, store.Result{}, err
	}
	s.total.announced(a.until - a.now)
	return given, res, nil
}

// An announce is one call of Announce.
type announce struct {
	*query
	ttl func(store.Size) time.Duration

	old     float64 // the peer's score before, or 0 if it was not there
	written int64   // the expiry that the first pipeline wrote
	until   int64   // the expiry of the announce
	expires int64   // when the set expires; -1 or -2 if it does not, or does not exist
	card    int64   // the size of the set with lapsed peers, or -1 if it was not asked
	wasLow  bool    // the first pipeline did not change the score
}

func (a *announce) run(ctx context.Context, dst []wire.Peer) ([]wire.Peer, store.Result, error) {
	s, b := a.store, a.store.client.B()
	own := a.keys.sets[a.own]
	start := s.clock.nano()
	limited := func(size store.Size) int64 { return expiry(start, min(a.ttl(size), maxTTL)) }

	// The first pipeline writes the final expiry if it is known: by a size that is not too old, or
	// because it is the same for the smallest track and for the largest.
	hinted := a.hinted && a.hint.isFresh
	var size store.Size
	if hinted {
		size = a.sizeOf(a.hint.counts[:], a.hint.birth)
		a.written = limited(size)
	} else {
		const large = 1 << 30
		total := s.total.sum()
		low := limited(store.Size{Peers: 1, Total: total})
		high := limited(store.Size{Peers: large, Total: max(large, total), Age: large * time.Second})
		if a.written = low; low != high {
			a.written = min(low, high, a.now+floorTime)
		}
	}
	a.until = a.written
	a.add(b.Zscore().Key(own).Member(a.member).Build())
	a.add(b.Zadd().Key(own).Gt().Ch().ScoreMember().ScoreMember(float64(a.written), a.member).Build())
	a.askCounts()
	// A set may have been removed and begun anew since the last announce, with another expiry.
	a.add(b.Expiretime().Key(own).Build())
	askCard := rand.IntN(4) == 0
	if askCard {
		a.add(b.Zcard().Key(own).Build())
	}
	a.askSample()
	r, err := a.send(ctx)
	if err != nil {
		return dst, store.Result{}, err
	}
	a.old, _ = r.next().AsFloat64() // nil is 0
	changed, _ := r.next().AsInt64()
	a.wasLow = changed == 0 && a.old < float64(a.written)
	a.readCounts(r)
	a.expires, _ = r.next().AsInt64()
	a.card = -1
	if askCard {
		a.card, _ = r.next().AsInt64()
	}
	complete := a.readSample(r)
	joined := a.old <= float64(a.now)

	// The second one reads what is missing, and writes what is known now.
	if !a.hiddenKnown {
		a.askHidden()
		if !complete {
			a.askSample()
		}
		if r, err = a.send(ctx); err != nil {
			return dst, store.Result{}, a.undo(ctx, joined, err)
		}
		a.readHidden(r)
		if !complete {
			a.readSample(r)
			complete = true
		}
	}
	counted := a.sizeOf(a.counts[:], a.birth)
	if joined && counted.Peers <= 1 {
		counted.Age = 0 // the track has just begun, though the number of an earlier one may be there
	}
	if until := limited(counted); !hinted || until == a.written {
		size, a.until = counted, max(until, a.written)
	}
	if !complete {
		a.askSample()
	}
	asked := len(a.commands)
	a.addWrites(joined, counted)
	if len(a.commands) > 0 {
		if r, err = a.send(ctx); err != nil {
			return dst, store.Result{}, a.undo(ctx, joined, err)
		}
		if !complete {
			a.readSample(r)
		}
		if raised := a.until > a.written && float64(a.until) > a.old; raised && len(r.results) > asked {
			if n, _ := r.next().AsInt64(); n == 0 { // a stream has begun to hold the peer meanwhile
				a.keepUnderLease()
				if _, err = a.send(ctx); err != nil {
					return dst, store.Result{}, err
				}
			}
		}
	}
	if a.lapsed() > maxLapsed {
		if err := a.removeLapsed(ctx); err != nil {
			return dst, store.Result{}, err
		}
	}
	a.remember()
	return a.give(dst), store.Result{Count: a.visibleCount(), Size: size}, nil
}

// addWrites adds what the second pipeline has to write, the raise of the expiry first.
func (a *announce) addWrites(joined bool, size store.Size) {
	b := a.store.client.B()
	own := a.keys.sets[a.own]
	if a.until > a.written && float64(a.until) > a.old {
		a.add(b.Zadd().Key(own).Gt().Ch().ScoreMember().ScoreMember(float64(a.until), a.member).Build())
	}
	if isLease(a.old) && !joined || a.wasLow {
		a.keepUnderLease()
	}
	if joined || a.expires < a.until {
		a.expires = 2*a.until - a.now // so that not every renewal has to do this
		a.expireAt(own, a.expires)
		a.expireAt(a.keys.birth, a.expires)
	}
	if a.birth == 0 || joined && size.Peers <= 1 {
		// The second is rounded up: a track is not reported to be older than it is.
		a.birth = (a.now+1)<<changeShift | int64(rand.Uint32N(1<<(changeShift-1)))
		a.add(b.Set().Key(a.keys.birth).Value(strconv.FormatInt(a.birth, 10)).ExatTimestamp(a.expires).Build())
	}
	if joined {
		a.commands = a.store.appendChange(a.commands, a.keys, a.now, string(kindTouched), a.member)
	}
	if n := a.lapsed(); n > 0 && n <= maxLapsed {
		a.add(b.Zremrangebyscore().Key(own).Min("-inf").Max(a.nowText[1:]).Build())
	}
}

// keepUnderLease adds commands that record the expiry of the announce of a peer that a stream holds. They remove
// those that have passed: if the announce lasts longer than the stream, nothing else does.
func (a *announce) keepUnderLease() {
	b := a.store.client.B()
	a.add(b.Zadd().Key(a.keys.announces).Gt().ScoreMember().ScoreMember(float64(a.until), a.member).Build())
	a.expireAt(a.keys.announces, a.until)
	a.add(b.Zremrangebyscore().Key(a.keys.announces).Min("-inf").Max(a.nowText[1:]).Build())
}

// expireAt adds commands that let a key expire at a second, or later if it would anyway. GT does nothing
// to a key that has no expiry.
func (a *announce) expireAt(key string, second int64) {
	b := a.store.client.B()
	a.add(b.Expireat().Key(key).Timestamp(second).Nx().Build())
	a.add(b.Expireat().Key(key).Timestamp(second).Gt().Build())
}

// undo removes the peer if it has joined by an announce that the full database then refused.
func (a *announce) undo(ctx context.Context, joined bool, err error) error {
	var full *store.FullError
	if joined && errors.As(err, &full) {
		_, _ = a.store.do(ctx, a.store.client.B().Zrem().Key(a.keys.sets[a.own]).Member(a.member).Build())
	}
	return err
}

// lapsed is how many lapsed peers the set still has, or 0 if that was not asked.
func (a *announce) lapsed() int64 {
	if a.card < 0 {
		return 0
	}
	return a.card - int64(a.counts[a.own])
}

// removeLapsed removes about maxLapsed lapsed peers of a set that has more. It names no member, because
// that one might have been renewed meanwhile.
func (a *announce) removeLapsed(ctx context.Context) error {
	b, set := a.store.client.B(), a.keys.sets[a.own]
	a.add(b.Arbitrary("ZRANGE").Keys(set).Args("-inf", a.nowText, "BYSCORE", "LIMIT", strconv.Itoa(maxLapsed-1), "1", "WITHSCORES").Build())
	r, err := a.send(ctx)
	if err != nil {
		return err
	}
	if scores, err := r.next().AsZScores(); err == nil && len(scores) == 1 {
		upTo := strconv.FormatFloat(scores[0].Score, 'f', -1, 64)
		a.add(b.Zremrangebyscore().Key(set).Min("-inf").Max(upTo).Build())
		_, err = a.send(ctx)
		return err
	}
	return nil
}

// appendChange appends the commands that report changes of a track to all trackers: they count the
// message and send it. now is the second, and head is what comes before the members.
func (s *Store) appendChange(commands []rueidis.Completed, k *trackKeys, now int64, head string, members ...string) []rueidis.Completed {
	n := len(head)
	for _, m := range members {
		n += len(m)
	}
	message := append(make([]byte, 0, n), head...)
	for _, m := range members {
		message = append(message, m...)
	}
	b := s.client.B()
	return append(commands,
		b.Incr().Key(k.birth).Build(),
		b.Expireat().Key(k.birth).Timestamp(now+int64(maxTTL/time.Second)).Nx().Build(), // if INCR has made it
		b.Spublish().Channel(k.channel).Message(rueidis.BinaryString(message)).Build())
}

// Look implements [store.Store].
func (s *Store) Look(ctx context.Context, key []byte, asker netip.Addr, want store.Want, dst []wire.Peer) ([]wire.Peer, store.Result, error) {
	q := s.newQuery(key, netip.AddrPortFrom(asker, 0), want)
	defer q.free()
	if err := q.read(ctx); err != nil {
		return dst, store.Result{}, err
	}
	q.remember()
	return q.give(dst), store.Result{Count: q.visibleCount(), Size: q.sizeOf(q.counts[:], q.birth)}, nil
}

// Leave implements [store.Store].
func (s *Store) Leave(ctx context.Context, key []byte, endpoint netip.AddrPort) error {
	k, member, now := s.keysOf(key), memberOf(endpoint), s.clock.second()
	s.endHolds(key, endpoint)
	b := s.client.B()
	// The message goes out even if the peer is not listed: of two streams that held it, the end of one
	// may have removed it for a moment.
	r, err := s.do(ctx,
		b.Zrem().Key(k.sets[setOf(endpoint.Addr())]).Member(member).Build(),
		b.Zrem().Key(k.announces).Member(member).Build(),
		b.Exists().Key(k.sets[:]...).Build(),
		b.Spublish().Channel(k.channel).Message(string(kindLeft)+member).Build())
	if err != nil {
		return err
	}
	s.addrs.remove(key, endpoint)
	if removed, _ := r[0].AsInt64(); removed == 0 {
		return nil
	}
	if sets, _ := r[2].AsInt64(); sets == 0 {
		_, err = s.do(ctx, b.Unlink().Key(k.birth).Build())
	} else {
		_, err = s.do(ctx, b.Incr().Key(k.birth).Build(),
			b.Expireat().Key(k.birth).Timestamp(now+int64(maxTTL/time.Second)).Nx().Build())
	}
	if _, full := errors.AsType[*store.FullError](err); full {
		return nil // the peer has left, and only the message is not counted
	}
	return err
}

// Remove implements [store.Store]. The database frees a large set beside its other work.
func (s *Store) Remove(ctx context.Context, key []byte) error {
	k := s.keysOf(key)
	s.endTrack(key)
	b := s.client.B()
	_, err := s.do(ctx,
		b.Unlink().Key(k.sets[:]...).Key(k.announces, k.birth).Build(),
		b.Spublish().Channel(k.channel).Message(string(kindRemoved)+s.watch.channels.name).Build())
	return err
}
