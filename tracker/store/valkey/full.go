package valkey

import (
	"context"
	"strconv"

	"ntrack/announce/wire"
	"ntrack/tracker/store"
)

// raiseScript raises the expiry of a peer that is listed, though the memory of the database is full: that
// takes no memory. Only for a peer that a stream holds, it takes a little. KEYS are the set of the peer and
// that of announces. ARGV are the member, the expiry and the second now. It returns 0 if the peer is not listed.
const raiseScript = `#!lua flags=allow-oom
local s = tonumber(redis.call('ZSCORE', KEYS[1], ARGV[1]) or '0')
if s <= tonumber(ARGV[3]) then return 0 end
redis.call('ZADD', KEYS[1], 'XX', 'GT', ARGV[2], ARGV[1])
if s % 1 ~= 0 then
redis.call('ZADD', KEYS[2], 'GT', ARGV[2], ARGV[1])
redis.call('EXPIREAT', KEYS[2], ARGV[2], 'NX')
redis.call('EXPIREAT', KEYS[2], ARGV[2], 'GT')
end
return 1`

// renewInFull renews a peer that is listed, after the database has refused its announce because it is
// full. Otherwise all peers would lapse. It returns full if the peer is not listed.
func (a *announce) renewInFull(ctx context.Context, dst []wire.Peer, full error) ([]wire.Peer, store.Result, error) {
	s, b := a.store, a.store.client.B()
	own := a.keys.sets[a.own]
	r, err := s.do(ctx, b.Zscore().Key(own).Member(a.member).Build())
	if err != nil {
		return dst, store.Result{}, err
	}
	if score, _ := r[0].AsFloat64(); score <= float64(a.now) {
		return dst, store.Result{}, full
	}
	a.hiddenKnown = a.first == 0
	if err := a.read(ctx); err != nil {
		return dst, store.Result{}, err
	}
	size := a.sizeOf(a.counts[:], a.birth)
	a.until = expiry(s.clock.nano(), min(a.ttl(size), maxTTL))
	a.add(b.Eval().Script(raiseScript).Numkeys(2).Key(own, a.keys.announces).
		Arg(a.member, strconv.FormatInt(a.until, 10), strconv.FormatInt(a.now, 10)).Build())
	a.expireAt(own, a.until)
	a.expireAt(a.keys.birth, a.until)
	replies, err := a.send(ctx)
	if err != nil {
		return dst, store.Result{}, err
	}
	if listed, _ := replies.next().AsInt64(); listed == 0 {
		return dst, store.Result{}, full
	}
	return a.give(dst), store.Result{Count: a.visibleCount(), Size: size}, nil
}
