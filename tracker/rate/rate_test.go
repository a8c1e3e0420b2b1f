package rate

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

var (
	fast = Limit{Kind: 1, PerSecond: 1000, Burst: 20}
	slow = Limit{Kind: 2, PerSecond: 100, Burst: 50}
)

// A model is what a Limiter should do: a bucket for each limit of each network, which is filled
// again as time passes. It is exact, since the times in the tests are whole ticks.
type model map[string]*bucket

type bucket struct {
	left int64 // what the network may use, in ticks times PerSecond
	at   time.Duration
}

func (m model) allow(addr netip.Addr, limit Limit, units int, now time.Duration) bool {
	a := addr.Unmap().WithZone("")
	widths := []int{32}
	if a.Is6() {
		widths = []int{64, 48}
	}
	fits := true
	var buckets []*bucket
	for _, bits := range widths {
		factor := int64(map[int]int{32: 1, 64: 1, 48: Wide}[bits])
		full := factor * int64(limit.Burst) * int64(time.Second)
		p, _ := a.Prefix(bits)
		name := fmt.Sprint(limit.Kind, p)
		b := m[name]
		if b == nil {
			b = &bucket{left: full}
			m[name] = b
		}
		b.left = min(full, b.left+int64(now-b.at)*int64(limit.PerSecond)*factor)
		b.at = now
		fits = fits && b.left >= int64(min(units, limit.Burst))*int64(time.Second)
		buckets = append(buckets, b)
	}
	if fits {
		for _, b := range buckets {
			b.left -= int64(min(units, limit.Burst)) * int64(time.Second)
		}
	}
	return fits
}

// compare does the steps of a random walk with a Limiter and with a model.
func compare(t *testing.T, seed uint64, steps int) {
	t.Helper()
	random := rand.New(rand.NewPCG(seed, 0))
	l, m := &Limiter{}, make(model)
	var addrs []netip.Addr
	for _, a := range []string{"192.0.2.1", "192.0.2.2", "::ffff:192.0.2.1", "0.0.0.1", "2001:db8::1", "2001:db8::ffff:0:0:1",
		"2001:db8:0:1::1", "2001:db8:1::1", "fe80::1%a", "fe80::1%b", "::1:0:0:0:1"} {
		addrs = append(addrs, netip.MustParseAddr(a))
	}
	for i := range 40 { // a /48 of its own, whose limit is the one that matters
		addrs = append(addrs, netip.AddrFrom16([16]byte{0x20, 1, 2, 3, 4, 5, 6, byte(i)}))
	}
	now := time.Duration(random.IntN(100)) * tick
	var waiting struct { // for the call that was refused last
		addr  netip.Addr
		limit Limit
		units int
		until time.Duration
	}
	for range steps {
		a, limit, units := addrs[random.IntN(len(addrs))], fast, 1+random.IntN(8)
		switch random.IntN(8) {
		case 0:
			limit = slow
		case 1:
			units = 1000
		}
		switch random.IntN(50) {
		case 0:
			now += time.Duration(random.IntN(3000)) * tick
		case 1:
			a, limit, units, now = waiting.addr, waiting.limit, waiting.units, max(now, waiting.until)
			if !a.IsValid() {
				continue
			}
			if wait, ok := l.Check(a, limit, units, now-tick); waiting.until == now && ok {
				t.Errorf("seed %d: it may be used before the wait of %v is over", seed, wait)
			}
		case 2:
			now += tick
		}
		waitBefore, before := l.Check(a, limit, units, now)
		wait, got := l.Allow(a, limit, units, now)
		want := m.allow(a, limit, units, now)
		if got != want || before != got || wait != waitBefore || (wait == 0) != got {
			t.Fatalf("seed %d: Allow(%s, %v, %d, %v) = %v, %v; Check said %v, %v; want %v", seed, a, limit, units, now, wait, got, waitBefore, before, want)
		}
		if !got {
			waiting.addr, waiting.limit, waiting.units, waiting.until = a, limit, units, now+wait
		} else if a == waiting.addr {
			waiting.addr = netip.Addr{}
		}
	}
}

// A Limiter with enough entries does the same as a bucket for each network.
func TestModel(t *testing.T) {
	for seed := range uint64(20) {
		compare(t, seed, 5000)
	}
}

func FuzzModel(f *testing.F) {
	f.Add(uint64(1))
	f.Fuzz(func(t *testing.T, seed uint64) { compare(t, seed, 500) })
}

// usable is how many units the network of a may use at once.
func usable(l *Limiter, a netip.Addr, limit Limit, now time.Duration) (n int) {
	for {
		if _, ok := l.Allow(a, limit, 1, now); !ok {
			return n
		}
		n++
	}
}

// The times of a Limiter have 32 bits. When they turn around, nobody is refused who may use
// something, and everybody has a limit. So it is if the clock jumps.
func TestClock(t *testing.T) {
	a := netip.MustParseAddr("192.0.2.1")
	const epoch = tick << epochBits
	for _, tt := range []struct {
		name       string
		then, now  time.Duration
		least, max int // how much may be used at now if everything is used at then
	}{
		{"the same moment", 0, 0, 0, 0},
		{"half of the burst later", 0, 10 * time.Millisecond, 10, 10},
		{"after the burst", time.Hour, time.Hour + 20*time.Millisecond, 20, 20},
		{"over the end of an epoch", epoch - tick, epoch, 0, 20},
		{"long after", 0, 100 * epoch, 20, 20},
		{"after a turn of 32 bits", 0, 4 * epoch, 20, 20},
		{"a moment after a turn of 32 bits", 0, 4*epoch + tick, 20, 20},
		{"before the clock began", -time.Hour, -time.Hour, 0, 0},
		{"the clock jumps back a little", time.Hour, time.Hour - 5*time.Millisecond, 0, 20},
		{"the clock jumps back", time.Hour, time.Minute, 20, 20},
		{"the clock jumps back to another epoch", 3*epoch + 5, 5, 20, 20},
	} {
		l := new(Limiter)
		if n := usable(l, a, fast, tt.then); n != fast.Burst {
			t.Errorf("%s: first %d, want %d", tt.name, n, fast.Burst)
		}
		if n := usable(l, a, fast, tt.now); n < tt.least || n > tt.max {
			t.Errorf("%s: %d, want %d to %d", tt.name, n, tt.least, tt.max)
		}
		if n := usable(l, a, fast, tt.now+time.Second); n != fast.Burst {
			t.Errorf("%s: %d a second later, want %d", tt.name, n, fast.Burst)
		}
	}
}

// If more networks are active than a Limiter has entries, nobody is refused for it, and the network
// that has used most stays limited.
func TestReplacement(t *testing.T) {
	l := &Limiter{Bytes: 1} // eight entries
	busy := netip.MustParseAddr("198.51.100.1")
	if n := usable(l, busy, slow, 0); n != slow.Burst {
		t.Fatalf("%d, want %d", n, slow.Burst)
	}
	for i := range 10_000 {
		a := netip.AddrFrom4([4]byte{192, 0, byte(i >> 8), byte(i)})
		if wait, ok := l.Allow(a, slow, 1, 0); !ok {
			t.Fatalf("network %d is refused for %v", i, wait)
		}
	}
	// An entry of a limit with a short burst does not take the place of one with a long burst.
	for i := range 10_000 {
		a := netip.AddrFrom4([4]byte{193, 0, byte(i >> 8), byte(i)})
		if wait, ok := l.Allow(a, fast, fast.Burst, 0); !ok {
			t.Fatalf("network %d is refused for %v", i, wait)
		}
	}
	if _, ok := l.Check(busy, slow, 1, 0); ok {
		t.Error("the busy network was forgotten")
	}
	if n := len(l.sets); n != 1 {
		t.Errorf("%d sets, want 1", n)
	}
}

// Entries of an earlier epoch do not keep those of the current one out.
func TestReplacementOfOldEntries(t *testing.T) {
	const half = tick << (epochBits - 1)
	l := &Limiter{Bytes: 1}
	for i := range byte(8) {
		l.Allow(netip.AddrFrom4([4]byte{192, 0, 2, i}), slow, slow.Burst, 2*half-tick)
	}
	a, b := netip.MustParseAddr("198.51.100.1"), netip.MustParseAddr("198.51.100.2")
	usable(l, a, fast, 3*half)
	l.Allow(b, fast, 1, 3*half)
	if _, ok := l.Check(a, fast, 1, 3*half); ok {
		t.Error("the network of this epoch was forgotten")
	}
}

// A network is an IPv4 address or an IPv6 /64, and each /48 has a limit, too.
func TestNetworks(t *testing.T) {
	for _, tt := range []struct {
		a, b   string
		shared bool
	}{
		{"192.0.2.1", "192.0.2.2", false},
		{"192.0.2.1", "::ffff:192.0.2.1", true},
		{"2001:db8:1:2::1", "2001:db8:1:2:ffff:ffff:ffff:ffff", true},
		{"2001:db8:1:2::1", "2001:db8:1:3::1", false},
		{"0:0:c000:201::", "192.0.2.1", false},
	} {
		l := new(Limiter)
		usable(l, netip.MustParseAddr(tt.a), fast, 0)
		if _, ok := l.Check(netip.MustParseAddr(tt.b), fast, 1, 0); ok == tt.shared {
			t.Errorf("%s and %s: shared is %v", tt.a, tt.b, !ok)
		}
	}
	l := new(Limiter)
	for i := range byte(Wide) {
		a := netip.AddrFrom16([16]byte{0x20, 1, 0xd, 0xb8, 0, 1, i << 4, i})
		if n := usable(l, a, fast, 0); n != fast.Burst {
			t.Errorf("%s: %d, want %d", a, n, fast.Burst)
		}
	}
	for a, want := range map[string]bool{
		"2001:db8:1::1": false, "2001:db8:1:7fff::1": false, "2001:db8:1:ffff::1": false,
		"2001:db8::1": true, "2001:db8:0:ffff::1": true, "2001:db8:2::1": true, "2001:db8:101::1": true,
		"0:2001:db8:1::1": true, // its /64 has the bits of that /48
	} {
		if _, ok := l.Check(netip.MustParseAddr(a), fast, 1, 0); ok != want {
			t.Errorf("%s: %v, want %v", a, ok, want)
		}
	}
}

// A burst is at most what two minutes have, because of the times of 32 bits.
func TestLongBurst(t *testing.T) {
	n := usable(new(Limiter), netip.MustParseAddr("192.0.2.1"), Limit{PerSecond: 1, Burst: 1000}, 0)
	if n < 120 || n > 140 {
		t.Errorf("%d units in a burst, want about 131", n)
	}
}

// Two Limiters put a network in different places, and one in the same as long as it lives.
func TestSeed(t *testing.T) {
	var one, two Limiter
	differ := 0
	for i := range byte(100) {
		a := netip.AddrFrom4([4]byte{192, 0, 2, i})
		p, _ := one.ask(a, fast, 1, 0)
		q, _ := two.ask(a, fast, 1, 0)
		if p.tag != q.tag {
			differ++
		}
		if q, _ = one.ask(a, fast, 2, time.Hour); p.tag != q.tag || p.set != q.set {
			t.Errorf("%s has two places", a)
		}
	}
	if differ < 90 {
		t.Errorf("only %d of 100 networks differ", differ)
	}
}

// Calls at the same time use no more than the limit.
func TestConcurrent(t *testing.T) {
	l, limit := &Limiter{}, Limit{PerSecond: 4000, Burst: 100_000}
	for _, a := range []string{"192.0.2.1", "2001:db8::1"} {
		var used atomic.Int64
		var wg sync.WaitGroup
		for range 8 {
			wg.Go(func() {
				for range limit.Burst / 4 { // enough to run beside the others
					if _, ok := l.Allow(netip.MustParseAddr(a), limit, 1, 0); ok {
						used.Add(1)
					}
				}
			})
		}
		wg.Wait()
		if n := int(used.Load()); n != limit.Burst {
			t.Errorf("%s used %d, want %d", a, n, limit.Burst)
		}
	}
	// Networks take each other's places all the time, and no call hangs or refuses.
	small := &Limiter{Bytes: 1}
	var wg sync.WaitGroup
	for g := range byte(8) {
		wg.Go(func() {
			for i := range 3000 {
				if _, ok := small.Allow(netip.AddrFrom4([4]byte{10, g, byte(i >> 8), byte(i)}), limit, 1, 0); !ok {
					t.Error("a network is refused")
				}
			}
		})
	}
	wg.Wait()
}

// The first call makes the table, and no other call allocates memory.
func TestMemory(t *testing.T) {
	l := &Limiter{Bytes: 4<<20 + 100}
	if l.sets != nil {
		t.Error("the table is there before the first call")
	}
	i := uint32(0)
	a4, a6 := netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("2001:db8::1")
	if n := testing.AllocsPerRun(100, func() {
		i++
		l.Allow(a4, fast, 1, time.Duration(i)*time.Second)
		l.Allow(a6, fast, 1, time.Duration(i)*time.Second)
		l.Check(a6, fast, 1, time.Duration(i)*time.Second)
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
	if n := len(l.sets) * 64; n != 4<<20 {
		t.Errorf("the table has %d bytes", n)
	}
	zero := new(Limiter)
	zero.Check(a4, fast, 1, 0)
	if n := len(zero.sets) * 64; n != 64<<10 {
		t.Errorf("the table of a zero Limiter has %d bytes", n)
	}
}

func BenchmarkAllow(b *testing.B) {
	for _, bb := range []struct {
		name string
		addr func(uint32) netip.Addr
	}{
		{"one", func(uint32) netip.Addr { return netip.AddrFrom4([4]byte{192, 0, 2, 1}) }},
		{"many", func(i uint32) netip.Addr {
			return netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)})
		}},
		{"IPv6", func(i uint32) netip.Addr {
			return netip.AddrFrom16([16]byte{0x20, 1, byte(i >> 16), byte(i >> 8), byte(i)})
		}},
	} {
		b.Run(bb.name, func(b *testing.B) {
			b.ReportAllocs()
			l := &Limiter{Bytes: 4 << 20}
			for i := uint32(0); b.Loop(); i++ {
				l.Allow(bb.addr(i), fast, 1, time.Duration(i)*time.Millisecond)
			}
		})
	}
}
