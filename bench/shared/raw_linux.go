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
	h := fnv.New32a()
	_, _ = h.Write(key)
	sum := h.Sum32()
	tag := fmt.Sprintf("%s:{%d}", r.prefix, (sum^sum>>8^sum>>16^sum>>24)%256)
	name := func(kind string) string { return tag + kind + " " + string(key) }
	own, other := name("d"), name("D")
	a, port := peer.Endpoint.Addr().As4(), peer.Endpoint.Port()
	member := string([]byte{a[0], a[1], a[2], a[3], byte(port >> 8), byte(port)})
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
