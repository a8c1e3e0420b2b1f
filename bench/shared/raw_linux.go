package main

import (
	"context"
	"fmt"
	"hash/fnv"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strconv"
	"time"

	"github.com/redis/rueidis"

	"ntrack/announce/wire"
)

// raw renews peers of tracks of a known size with the commands that a Store sends for that, but
// without a Store: it has no limits, streams, clock, joins or counts. So it is the least that such a
// renewal can cost.
type raw struct {
	client rueidis.Client
	prefix string
	peers  int // of each track
}

func (r *raw) announce(ctx context.Context, key []byte, peer wire.Peer, dst []wire.Peer) ([]wire.Peer, error) {
	name := r.names(key)
	own, other := name("d"), name("D")
	member := memberOf(peer.Endpoint)
	now := time.Now().Unix()
	since := "(" + strconv.FormatInt(now, 10)

	c := r.client.B()
	commands := make([]rueidis.Completed, 0, 12)
	add := func(c rueidis.Completed) { commands = append(commands, c.ToRetryable()) }
	add(c.Zscore().Key(own).Member(member).Build())
	add(c.Zadd().Key(own).Gt().Ch().ScoreMember().ScoreMember(float64(now+int64(ttl/time.Second)), member).Build())
	add(c.Zcount().Key(own).Min(since).Max("+inf").Build())
	add(c.Zcount().Key(other).Min(since).Max("+inf").Build())
	add(c.Exists().Key(name("a"), name("A"), name("b"), name("B"), name("c"), name("C")).Build())
	add(c.Get().Key(name("#")).Build())
	add(c.Expiretime().Key(own).Build())
	if rand.IntN(4) == 0 {
		add(c.Zcard().Key(own).Build())
	}
	first := len(commands)
	window := func(from, to int) {
		if from < to {
			add(c.Zrange().Key(own).Min(strconv.Itoa(-to)).Max(strconv.Itoa(-from - 1)).Build())
		}
	}
	// As many members as a Store reads, in four parts that do not overlap.
	const parts, length = 4, 16
	if free := r.peers - parts*length; free > 0 && r.peers > want+1 {
		var cuts [parts]int
		for i := range cuts {
			cuts[i] = rand.IntN(free + 1)
		}
		slices.Sort(cuts[:])
		turn := rand.IntN(r.peers)
		for i, cut := range cuts {
			from := (turn + cut + i*length) % r.peers
			window(from, min(from+length, r.peers))
			window(0, from+length-r.peers)
		}
	} else {
		window(0, r.peers)
	}
	results := r.client.DoMulti(ctx, commands...)
	for _, r := range results {
		if err := r.Error(); err != nil && !rueidis.IsRedisNil(err) {
			return dst, err
		}
	}
	for _, r := range results[first:] {
		list, err := r.ToArray()
		if err != nil {
			return dst, err
		}
		for _, m := range list {
			b, err := m.ToString()
			if err != nil || len(b) != 6 {
				return dst, fmt.Errorf("a member is %q, %w", b, err)
			}
			if b != member && len(dst) < want {
				dst = append(dst, wire.Peer{Endpoint: netip.AddrPortFrom(netip.AddrFrom4([4]byte([]byte(b[:4]))), uint16(b[4])<<8|uint16(b[5]))})
			}
		}
	}
	return dst, nil
}

// names returns a function for the names of everything that belongs to a track.
func (r *raw) names(key []byte) func(kind string) string {
	h := fnv.New32a()
	_, _ = h.Write(key)
	sum := h.Sum32()
	tag := fmt.Sprintf("%s:{%d}", r.prefix, (sum^sum>>8^sum>>16^sum>>24)%256)
	return func(kind string) string { return tag + kind + " " + string(key) }
}

func memberOf(e netip.AddrPort) string {
	a, port := e.Addr().As4(), e.Port()
	return string([]byte{a[0], a[1], a[2], a[3], byte(port >> 8), byte(port)})
}

// fill writes the peers of that many keys, as if they had announced.
func (r *raw) fill(keys int) error {
	now := time.Now().Unix()
	for k := range keys {
		name, c := r.names(keyOf(k)), r.client.B()
		add := c.Zadd().Key(name("d")).ScoreMember()
		for i := range r.peers {
			add = add.ScoreMember(float64(now+int64(ttl/time.Second)-int64(rand.IntN(1000))), memberOf(endpointOf(k, i)))
		}
		end := now + 2*int64(ttl/time.Second)
		for _, reply := range r.client.DoMulti(context.Background(), add.Build(), c.Expireat().Key(name("d")).Timestamp(end).Build(),
			c.Set().Key(name("#")).Value(strconv.FormatInt(now<<24, 10)).ExatTimestamp(end).Build()) {
			if err := reply.Error(); err != nil {
				return err
			}
		}
	}
	return nil
}
