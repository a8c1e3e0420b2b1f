//go:build linux && (amd64 || arm64)

package main

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"strconv"
	"time"

	"ntrack/bench/measure"
	"ntrack/tracker"
)

// A memoryPlan says with how many keys and peers a tracker is filled to measure memory and time.
type memoryPlan struct {
	Keys  int  `json:"keys"`
	Peers int  `json:"peers_per_key"`
	IDs   bool `json:"ids"`
}

func (p memoryPlan) total() int { return p.Keys * p.Peers }

// A memoryResult has the bytes of resident memory per peer, without those of the empty process, and
// the nanoseconds of CPU time per announce.
type memoryResult struct {
	memoryPlan
	Baseline int64         `json:"baseline_bytes"`   // of the process before the first announce
	Running  float64       `json:"running_per_peer"` // after every peer has announced twice
	AfterGC  float64       `json:"after_gc_per_peer"`
	Join     time.Duration `json:"join_ns"`
	Renew    time.Duration `json:"renew_ns"` // with 50 peers in the reply
	GC       time.Duration `json:"gc_ns"`    // a full collection from start to end; the program runs during most of it
}

// memoryPlans returns the plans of the memory section or, if grow is true, of the growth section.
func memoryPlans(million int, grow bool) []memoryPlan {
	if !grow {
		return []memoryPlan{{million / 50, 50, false}, {million / 50, 50, true}, {million, 1, false}, {million, 1, true}}
	}
	return []memoryPlan{{max(1, million/50_000), 50, false}, {max(1, million/5000), 50, false}, {million / 500, 50, false},
		{million / 50, 50, false}, {million / 5, 50, false}, {1, million, false}}
}

// fill adds the commands of a plan. The announces call Tracker.Answer without a socket, because a
// server keeps nothing for a peer after its connection.
func (c commands) fill(p memoryPlan) {
	t := &tracker.Tracker{}
	body, target := make([]byte, 0, 4096), make([]byte, 0, 512)
	announce := func(i int, want string) error {
		k, n := i%p.Keys, i/p.Keys
		target = append(target[:0], "/announce?info_hash="...)
		target = appendHex(target, uint64(k), 20)
		if p.IDs {
			target = appendHex(append(target, "&peer_id="...), uint64(i)+1<<40, 20)
		}
		target = strconv.AppendUint(append(target, "&port="...), 1024+mix(uint64(n))%60000, 10)
		target = append(append(target, "&compact=1&numwant="...), want...)
		// Every peer of a key has its own address, and a large key has 16 million of them.
		remote := [4]byte{byte(20 + n>>24), byte(n >> 16), byte(n >> 8), byte(n)}
		if p.Peers < 1<<16 {
			x := mix(uint64(i))
			remote = [4]byte{byte(20 + x>>24%64), byte(x >> 16), byte(n >> 8), byte(n)}
		}
		call := tracker.Call{Method: "GET", Target: target, Remote: netip.AddrPortFrom(netip.AddrFrom4(remote), 50000)}
		var resp tracker.Response
		resp, body = t.Answer(context.Background(), &call, body[:0])
		if resp.Status != 200 {
			return fmt.Errorf("%d %s", resp.Status, body)
		}
		return nil
	}
	c["join"] = func(string) error {
		for i := range p.total() {
			if err := announce(i, "0"); err != nil {
				return err
			}
		}
		return nil
	}
	c["renew"] = func(string) error { // one announce per peer, but of random peers
		for i := range p.total() {
			if err := announce(int(mix(uint64(i))%uint64(p.total())), "50"); err != nil {
				return err
			}
		}
		if len(body) < 6*min(p.Peers-1, 50) {
			return errors.New("replies without peers")
		}
		return nil
	}
}

// mix is splitmix64. It returns numbers that look random and are all different.
func mix(x uint64) uint64 {
	x += 0x9e3779b97f4a7c15
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	return x ^ x>>31
}

// appendHex appends n pseudo-random bytes with the seed x, each percent-encoded.
func appendHex(dst []byte, x uint64, n int) []byte {
	const digits = "0123456789ABCDEF"
	var word [8]byte
	for i := range n {
		if i%8 == 0 {
			x = mix(x)
			binary.LittleEndian.PutUint64(word[:], x)
		}
		b := word[i%8]
		dst = append(dst, '%', digits[b>>4], digits[b&15])
	}
	return dst
}

// measureMemory runs a plan in a process of its own.
func (b *bench) measureMemory(p memoryPlan) (r memoryResult, err error) {
	r.memoryPlan = p
	s, err := spawnRole("memory", b.serverCPU, b.loadCPU, "memory", fmt.Sprintf("-keys=%d", p.Keys), fmt.Sprintf("-peers=%d", p.Peers), fmt.Sprintf("-ids=%t", p.IDs))
	if err != nil {
		return r, err
	}
	defer s.stop()
	var running, after int64
	per := func(d time.Duration) time.Duration { return d / time.Duration(p.total()) }
	for _, step := range []struct {
		command string
		took    *time.Duration
		rss     *int64
	}{{"gc", nil, &r.Baseline}, {"join", &r.Join, nil}, {"renew", &r.Renew, &running}, {"gc", &r.GC, &after}} {
		before, err := measure.UsageOf(s.PID)
		if err != nil {
			return r, err
		}
		took, err := s.command(step.command)
		if err != nil {
			return r, err
		}
		used, err := measure.UsageOf(s.PID)
		if err != nil {
			return r, err
		}
		if step.took != nil {
			*step.took = used.CPU - before.CPU
			if step.command == "gc" {
				*step.took = took
			}
		}
		if step.rss == nil {
			continue
		}
		if *step.rss, err = measure.RSSOf(s.PID); err != nil {
			return r, err
		}
	}
	r.Join, r.Renew = per(r.Join), per(r.Renew)
	r.Running = float64(running-r.Baseline) / float64(p.total())
	r.AfterGC = float64(after-r.Baseline) / float64(p.total())
	return r, nil
}
