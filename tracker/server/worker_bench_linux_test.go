package server

import (
	"fmt"
	"net/netip"
	"testing"
	"time"

	"ntrack/tracker"
)

// BenchmarkServeBatch measures an announce without its system calls: to the same track, which stays
// in the CPU's cache, and to one of 10,000 tracks. Each peer has an address of its own, which has limits.
func BenchmarkServeBatch(b *testing.B) {
	s := &Server{Tracker: &tracker.Tracker{}}
	s.once.Do(s.init)
	w := &batch{now: time.Now()}
	remote := func(k, peer int) netip.AddrPort {
		return netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, byte(peer), byte(k >> 8), byte(k)}), 50_000)
	}
	const keys, peers = 10_000, 80
	request := func(k, peer int) []byte {
		return fmt.Appendf(nil, "GET /announce?info_hash=%%%02x%%%02xAB%%00%%d8%%1cdefghijklm%%7fop&peer_id=-qB4650-abcdefgh%04d&port=%d"+
			"&uploaded=0&downloaded=0&left=1&corrupt=0&key=1A2B3C4D&numwant=50&compact=1&no_peer_id=1&supportcrypto=1&redundant=0 HTTP/1.1\r\n"+
			"Host: 127.0.0.1:6969\r\nUser-Agent: qBittorrent/4.6.5\r\nAccept-Encoding: gzip\r\n\r\n", k/256, k%256, peer, 10000+peer)
	}
	for i := range keys * peers {
		w.serve(s, request(i%keys, i/keys), remote(i%keys, i/keys), direct, true, false)
	}
	var all [1024][]byte
	var from [1024]netip.AddrPort
	in := make([]byte, 0, 2048)
	for _, keys := range []int{1, keys} {
		for i := range all {
			all[i], from[i] = request(i*7919%keys, i%peers), remote(i*7919%keys, i%peers)
		}
		b.Run(fmt.Sprint(keys, " keys"), func(b *testing.B) {
			b.ReportAllocs()
			for i := 0; b.Loop(); i++ {
				w.serve(s, append(in, all[i%len(all)]...), from[i%len(from)], direct, true, false)
			}
		})
	}
}
