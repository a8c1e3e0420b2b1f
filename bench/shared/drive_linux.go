package main

import (
	"context"
	"crypto/sha1"
	"errors"
	"fmt"
	"net/netip"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"ntrack/announce/wire"
	"ntrack/bench/measure"
	"ntrack/tracker/store"
)

// want is how many peers a reply has.
const want = 50

// ttl is how long the announces of a role without a tracker last.
const ttl = 75 * time.Minute

// keyOf returns a key as BitTorrent clients have it.
func keyOf(k int) []byte {
	sum := sha1.Sum(strconv.AppendInt([]byte("ntrack bench "), int64(k), 10))
	return sum[:]
}

// endpointOf returns the endpoint of a peer of a key, at a public address. At most 2^23 peers of one
// key have different ones.
func endpointOf(k, i int) netip.AddrPort {
	return netip.AddrPortFrom(netip.AddrFrom4([4]byte{11 + byte(i>>16), byte(i >> 8), byte(i), 1 + byte(k%250)}), uint16(10_000+k/250))
}

// An announcer announces a peer, and appends other peers of its key to dst.
type announcer func(ctx context.Context, key []byte, peer wire.Peer, dst []wire.Peer) ([]wire.Peer, error)

// A driver has callers. Each announces a random peer of a random key, and does so again as soon as it
// has the reply.
type driver struct {
	announce    func(caller, k, i int) error
	keys, peers int
	workers     []worker
	refused     atomic.Int64 // announces that the store could not answer in time, and that were sent again
	ended       atomic.Bool
	group       sync.WaitGroup
	failed      atomic.Pointer[error]
}

type worker struct {
	mu    sync.Mutex
	done  int
	times measure.Histogram
}

// start lets the callers begin.
func (d *driver) start(callers int, seed uint64) {
	d.workers = make([]worker, callers)
	d.ended.Store(false)
	for c := range d.workers {
		d.group.Go(func() {
			x := mix(seed+uint64(c)) | 1
			for !d.ended.Load() {
				x ^= x << 13 // xorshift64
				x ^= x >> 7
				x ^= x << 17
				began := time.Now()
				if err := d.announce(c, int(x>>33%uint64(d.keys)), int(x&0xffffffff%uint64(d.peers))); err != nil {
					d.failed.CompareAndSwap(nil, &err)
					return
				}
				w := &d.workers[c]
				w.mu.Lock()
				w.done++
				w.times.Add(time.Since(began))
				w.mu.Unlock()
			}
		})
	}
}

// A mark has what the callers have done since the last mark.
type mark struct {
	Done     int
	Refused  int
	P50, P99 time.Duration
}

func (d *driver) mark() (m mark, err error) {
	var times measure.Histogram
	for c := range d.workers {
		w := &d.workers[c]
		w.mu.Lock()
		m.Done += w.done
		for i, n := range w.times {
			times[i] += n
		}
		w.done, w.times = 0, measure.Histogram{}
		w.mu.Unlock()
	}
	m.Refused = int(d.refused.Swap(0))
	m.P50, m.P99 = times.Percentile(0.5), times.Percentile(0.99)
	if e := d.failed.Load(); e != nil {
		err = *e
	}
	return m, err
}

func (d *driver) stop() {
	d.ended.Store(true)
	d.group.Wait()
}

// fill lets every peer announce once.
func (d *driver) fill(callers int) error {
	var next atomic.Int64
	var first atomic.Pointer[error]
	for c := range callers {
		d.group.Go(func() {
			for first.Load() == nil {
				n := int(next.Add(1)) - 1
				if n >= d.keys*d.peers {
					return
				}
				if err := d.announce(c, n%d.keys, n/d.keys); err != nil {
					first.CompareAndSwap(nil, &err)
				}
			}
		})
	}
	d.group.Wait()
	if err := first.Load(); err != nil {
		return *err
	}
	return nil
}

// mix spreads the bits of a seed (splitmix64).
func mix(x uint64) uint64 {
	x += 0x9e3779b97f4a7c15
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	return x ^ x>>31
}

// drive returns a driver of an announcer. It checks that a reply has no more peers than it may, and not
// the asker. If every peer has announced, a full reply has as many as it may.
func drive(announce announcer, keys, peers, callers int, full bool) *driver {
	lists := make([][]wire.Peer, callers)
	d := &driver{keys: keys, peers: peers}
	d.announce = func(caller, k, i int) error {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		peer := wire.Peer{Endpoint: endpointOf(k, i)}
		list, err := announce(ctx, keyOf(k), peer, lists[caller][:0])
		for again := 0; errors.Is(err, store.ErrUnavailable) && again < 20; again++ {
			d.refused.Add(1)
			list, err = announce(ctx, keyOf(k), peer, lists[caller][:0])
		}
		if err != nil {
			return err
		}
		lists[caller] = list
		for _, p := range list {
			if p.Endpoint == peer.Endpoint {
				return errors.New("a reply has the peer that announced")
			}
		}
		if len(list) > want || full && len(list) != min(want, peers-1) {
			return fmt.Errorf("a reply has %d peers", len(list))
		}
		return nil
	}
	return d
}
