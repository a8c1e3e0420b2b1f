//go:build linux && (amd64 || arm64)

package main

import (
	"bytes"
	"crypto/sha1"
	"encoding/binary"
	"fmt"
	"math/bits"
	"strconv"

	"ntrack/announce/wire"
)

// A population has the keys and peers that every tracker has while it is measured, and their
// requests. Peer i of every key announces from its address 127.0.0.1+i.
type population struct {
	keys, peers int // of each key
	want        int // peers in a reply
	requests    []byte
	ends        []int // where the request of each key ends in requests
	ports       []int // where in a key's request the port is
}

// A port shows the peer and the key: peer i of key k has firstPort + i*residues + k%residues. So
// check almost certainly notices a reply with a peer of another key.
const (
	firstPort = 10000
	residues  = 690
	maxPeers  = 80
)

// idTail is between the last two digits of a peer id, which differ for the peers of a key, and the
// port.
const idTail = "&port="

func newPopulation(keys, peers, want int, keepAlive bool) *population {
	p := &population{keys: keys, peers: peers, want: want}
	connection := ""
	if !keepAlive {
		connection = "Connection: close\r\n"
	}
	for k := range keys {
		hash := infoHash(k)
		begin := len(p.requests)
		b := wire.AppendEscaped(append(p.requests, "GET /announce?info_hash="...), hash[:])
		b = append(b, "&peer_id=-qB4650-"...)
		b = append(fmt.Appendf(b, "%08xi", binary.LittleEndian.Uint32(hash[:])), "000"...)
		b = append(b, idTail...)
		p.ports = append(p.ports, len(b)-begin)
		b = fmt.Appendf(b, "00000&uploaded=0&downloaded=0&left=1&corrupt=0&key=1A2B3C4D&numwant=%d&compact=1&no_peer_id=1"+
			"&supportcrypto=1&redundant=0 HTTP/1.1\r\nHost: 127.0.0.1:6969\r\nUser-Agent: qBittorrent/4.6.5\r\n"+
			"Accept-Encoding: gzip\r\n%s\r\n", want, connection)
		p.requests, p.ends = b, append(p.ends, len(b))
	}
	return p
}

func infoHash(k int) [20]byte {
	return sha1.Sum(strconv.AppendInt([]byte("ntrack bench "), int64(k), 10))
}

// address returns the address of a peer.
func address(peer int) [4]byte { return [4]byte{127, 0, 0, 1 + byte(peer)} }

func (p *population) port(key, peer int) int { return firstPort + peer*residues + key%residues }

// request returns the announce of a peer. It is valid until the next call.
func (p *population) request(key, peer int) []byte {
	begin := 0
	if key > 0 {
		begin = p.ends[key-1]
	}
	r := p.requests[begin:p.ends[key]]
	at := p.ports[key]
	id := at - len(idTail) - 1
	r[id], r[id-1] = '0'+byte(peer%10), '0'+byte(peer/10)
	for n, i := p.port(key, peer), at+4; i >= at; i-- {
		r[i] = '0' + byte(n%10)
		n /= 10
	}
	return r
}

// replyLen returns the length of the reply at the beginning of b, or 0 if it is not known yet.
func replyLen(b []byte) (int, error) {
	head := bytes.Index(b, []byte("\r\n\r\n"))
	if head < 0 {
		return 0, nil
	}
	if !bytes.HasPrefix(b, []byte("HTTP/1.1 200 ")) {
		return 0, fmt.Errorf("status other than 200: %q", b)
	}
	const field = "\r\nContent-Length: "
	i := bytes.Index(b[:head+2], []byte(field))
	if i < 0 {
		return 0, fmt.Errorf("no Content-Length: %q", b[:head])
	}
	n := 0
	for i += len(field); '0' <= b[i] && b[i] <= '9'; i++ {
		n = n*10 + int(b[i]-'0')
	}
	return head + 4 + n, nil
}

// check returns what is wrong with a complete reply to a peer of a key. The reply must have the
// count of all peers, and exactly as many peers as were wanted. All are of that key, none is there
// twice, and none is the asker, unless listsSelf allows that.
func (p *population) check(reply []byte, key, peer int, listsSelf bool) error {
	var want [16]byte
	i := bytes.Index(reply, []byte("5:peers"))
	if i < 0 {
		return fmt.Errorf("no peers: %q", reply)
	}
	list := reply[i+len("5:peers"):]
	length := append(strconv.AppendInt(want[:0], int64(6*p.want), 10), ':')
	if !bytes.HasPrefix(list, length) || len(list) != len(length)+6*p.want+1 || list[len(list)-1] != 'e' {
		return fmt.Errorf("not %d peers at the end: %q", p.want, reply)
	}
	if p.want == 0 {
		return nil
	}
	count := append(strconv.AppendInt(append(want[:0], "letei"...), int64(p.peers), 10), 'e')
	if !bytes.Contains(reply[:i], count) {
		return fmt.Errorf("not %d peers in all: %q", p.peers, reply[:i])
	}
	residue, seen := key%residues, [2]uint64{}
	if !listsSelf {
		seen[peer/64] = 1 << (peer % 64)
	}
	for list = list[len(length):]; len(list) > 1; list = list[6:] {
		n := int(binary.BigEndian.Uint16(list[4:])) - firstPort
		i := n / residues
		if n < 0 || n%residues != residue || i >= p.peers || [4]byte(list) != address(i) {
			return fmt.Errorf("%v:%d is no peer of key %d", list[:4], n+firstPort, key)
		}
		seen[i/64] |= 1 << (i % 64)
	}
	distinct := bits.OnesCount64(seen[0]) + bits.OnesCount64(seen[1])
	if !listsSelf {
		distinct--
	}
	if distinct != p.want {
		return fmt.Errorf("%d different peers in the reply to peer %d of key %d, not %d", distinct, peer, key, p.want)
	}
	return nil
}
