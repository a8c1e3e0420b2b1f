package main

import (
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"time"

	"golang.org/x/net/dns/dnsmessage"
)

const (
	zone = "peers.example"
	// udpSize is the size of the largest reply that a query allows.
	udpSize = 1232
)

// A query is a kind of query. Each one has the number of a key in its name.
type query struct {
	name, flag string
	before     string // in the name, before the number
	keys       int
	kind       dnsmessage.Type
	most       int // answers; there are fewer if they do not fit
	code       int
	answers    int // in each reply
	bytes      int // of the reply
}

func casesOf(small, large int) []*query {
	return []*query{
		{name: "A, 5 peers", flag: "a", before: "a", keys: small, kind: dnsmessage.TypeA, most: 5},
		{name: "SRV, 50 peers", flag: "srv", before: "_http._tcp.s", keys: large, kind: dnsmessage.TypeSRV, most: 50},
		{name: "NXDOMAIN", flag: "none", before: "none", keys: 1_000_000, kind: dnsmessage.TypeA, code: int(dnsmessage.RCodeNameError)},
	}
}

// append appends a query for the key with a number.
func (q *query) append(b []byte, id uint16, n int) []byte {
	b = append(b, byte(id>>8), byte(id), 1, 0, 0, 1, 0, 0, 0, 0, 0, 1)
	label := len(b)
	b = append(b, 0)
	for i := range len(q.before) {
		if q.before[i] == '.' {
			b[label] = byte(len(b) - label - 1)
			label = len(b)
			b = append(b, 0)
			continue
		}
		b = append(b, q.before[i])
	}
	b = strconv.AppendInt(b, int64(n%q.keys), 10)
	b[label] = byte(len(b) - label - 1)
	b = append(b, "\x05peers\x07example\x00"...)
	b = binary.BigEndian.AppendUint16(b, uint16(q.kind))
	b = append(b, 0, 1)
	b = append(b, 0, 0, 41, udpSize>>8, udpSize&255, 0, 0, 0, 0, 0, 0) // OPT
	return b
}

// probe asks a server once, and checks the whole reply: as many different answers as fit, each of them
// right.
func (q *query) probe(port int) error {
	c, err := net.Dial("udp", fmt.Sprint("127.0.0.1:", port))
	if err != nil {
		return err
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(10 * time.Second))
	if _, err := c.Write(q.append(nil, 1, 3)); err != nil {
		return err
	}
	b := make([]byte, 2*udpSize)
	n, err := c.Read(b)
	if err != nil {
		return err
	}
	var m dnsmessage.Message
	if err := m.Unpack(b[:n]); err != nil {
		return err
	}
	seen := make(map[string]bool)
	for _, r := range m.Answers {
		var text string
		switch body := r.Body.(type) {
		case *dnsmessage.AResource:
			if !netip.MustParsePrefix("11.0.0.0/8").Contains(netip.AddrFrom4(body.A)) {
				return fmt.Errorf("%s is not a peer", netip.AddrFrom4(body.A))
			}
			text = body.GoString()
		case *dnsmessage.SRVResource:
			text = body.GoString()
		}
		if r.Header.Type != q.kind || text == "" {
			return fmt.Errorf("an answer is %s", r.GoString())
		}
		seen[text] = true
	}
	fits := len(m.Answers) == q.most || m.Truncated && n > udpSize*3/4
	if int(m.RCode) != q.code || len(seen) != len(m.Answers) || len(seen) > q.most || !fits || n > udpSize {
		return fmt.Errorf("%d bytes, %d answers, of which %d differ: %s", n, len(m.Answers), len(seen), m.GoString())
	}
	q.answers, q.bytes = len(m.Answers), n
	return nil
}
