package dns

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"math/rand/v2"
	"net/netip"
	"slices"
	"time"

	"golang.org/x/net/dns/dnsmessage"

	"ntrack/announce/wire"
)

const (
	// ttl is how long resolvers keep a record, in seconds. Addresses of peers change at any time.
	ttl = 5
	// ttlMissing is how long they keep that a name or a record does not exist, in seconds. The first
	// peers of a key are found that much later by those who have asked too early.
	ttlMissing = 1
	ttlZone    = 300 // of the records about the zone itself, in seconds

	// minPacket is what a client without EDNS takes, and maxPacket is what passes all networks without
	// being cut.
	minPacket = 512
	maxPacket = 1232
	maxTCP    = 1<<16 - 1

	// These are sizes of records. The name of each is a pointer to the question.
	sizeA, sizeAAAA = 16, 28
	sizeSRV         = 18 // and the target
	sizeOPT         = 11

	// A look may find nothing though there are peers, if it may see few of a large track. Then the
	// server looks again, up to numLooks times.
	numLooks = 8
)

// A work is the memory for an answer, which a later answer uses again.
type work struct {
	in    [maxQuery]byte
	lower [255]byte // the name of the question
	out   []byte
	peers []wire.Peer
	addrs []netip.Addr
}

// An asker is where a query came from.
type asker struct {
	addr  netip.Addr // canonical
	local netip.Addr // to which it came; not valid if that is not known
	tcp   bool
}

// server is the address of this server, or not valid. Behind NAT it may be a private one, which says nothing
// to a public client but how the network looks inside.
func (a asker) server() netip.Addr {
	if !a.local.IsValid() || !wire.ScopeOf(a.addr).Sees(wire.ScopeOf(a.local)) {
		return netip.Addr{}
	}
	return a.local
}

// A query is a query that has been read.
type query struct {
	dnsmessage.Header
	dnsmessage.Question
	asked   bool // Question is set
	edns    bool
	version byte // of EDNS
	size    int  // of the largest reply
}

// errDrop says that a message gets no reply.
var errDrop = errors.New("no query")

// errMalformed says that a message gets the reply that it is malformed.
var errMalformed = errors.New("malformed")

// parse reads a query.
func (q *query) parse(msg []byte, tcp bool) error {
	var p dnsmessage.Parser
	var err error
	if q.Header, err = p.Start(msg); err != nil || q.Response {
		return errDrop
	}
	q.size = minPacket
	if tcp {
		q.size = maxTCP
	}
	if q.OpCode != 0 {
		return nil // the rest may be anything
	}
	if binary.BigEndian.Uint16(msg[4:]) != 1 {
		return errMalformed
	}
	if q.Question, err = p.Question(); err != nil {
		return errMalformed
	}
	q.asked = true
	if p.SkipAllQuestions() != nil || p.SkipAllAnswers() != nil || p.SkipAllAuthorities() != nil {
		return errMalformed
	}
	for {
		h, err := p.AdditionalHeader()
		if err == dnsmessage.ErrSectionDone {
			return nil
		}
		if err != nil || p.SkipAdditional() != nil {
			return errMalformed
		}
		if h.Type != dnsmessage.TypeOPT {
			continue
		}
		if q.edns || h.Name.Length != 1 {
			return errMalformed
		}
		q.edns, q.version = true, byte(h.TTL>>16)
		if !tcp {
			q.size = min(max(int(h.Class), minPacket), maxPacket)
		}
	}
}

// answer returns the reply to a message, or nil if it gets none. The reply is in the memory of w.
func (s *Server) answer(ctx context.Context, msg []byte, from asker, w *work) []byte {
	var q query
	err := q.parse(msg, from.tcp)
	if err == errDrop {
		s.results[resultDropped].Add(1)
		return nil
	}
	m := newMessage(&q, w.out[:0])
	r := resultMalformed
	switch {
	case err != nil:
		m.rcode = dnsmessage.RCodeFormatError
	case q.OpCode != 0:
		m.rcode, r = dnsmessage.RCodeNotImplemented, resultUnsupported
	case q.version != 0:
		m.badVersion, r = true, resultUnsupported
	default:
		r = s.carryOut(ctx, &q, from, w, &m)
	}
	s.results[r].Add(1)
	reply := m.finish()
	w.out = reply[:0]
	return reply
}

// carryOut answers a question that was read.
func (s *Server) carryOut(ctx context.Context, q *query, from asker, w *work, m *message) result {
	lower := w.lower[:copy(w.lower[:], q.Name.Data[:q.Name.Length])]
	for i, c := range lower {
		if 'A' <= c && c <= 'Z' {
			lower[i] = c + 'a' - 'A'
		}
	}
	name, ok := bytes.CutSuffix(lower, []byte(s.zone))
	switch {
	case !ok, len(name) > 0 && name[len(name)-1] != '.', q.Class != dnsmessage.ClassINET,
		q.Type == typeAXFR, q.Type == typeIXFR:
		m.rcode = dnsmessage.RCodeRefused
		return resultRefused
	}
	m.authoritative = true
	if !from.tcp {
		if _, ok := s.allows(from); !ok {
			m.truncated = true // a client that has this address comes by TCP
			return resultLimited
		}
	}
	m.zone.Length = uint8(copy(m.zone.Data[:], q.Name.Data[len(name):q.Name.Length]))
	k, key, a := kindOf(name)
	switch k {
	case kindNone:
		return m.missing(dnsmessage.RCodeNameError)
	case kindKey, kindProtocol, kindService:
		return s.answerKey(ctx, k, key, q, from, w, m)
	case kindApex:
		switch q.Type {
		case dnsmessage.TypeSOA:
			m.startAnswers()
			m.soa(ttlZone)
			return resultAnswered
		case dnsmessage.TypeNS:
			m.startAnswers()
			m.ns()
			m.startAdditionals()
			if a := from.server(); a.IsValid() {
				m.address(m.server(), a, ttlZone)
			}
			return resultAnswered
		}
	case kindServer:
		if a := from.server(); typeOf(a) == q.Type {
			m.startAnswers()
			m.address(q.Name, a, ttlZone)
			return resultAnswered
		}
	case kindAddress:
		if typeOf(a) == q.Type {
			m.startAnswers()
			m.address(q.Name, a, ttl)
			return resultAnswered
		}
	}
	if q.Type == dnsmessage.TypeALL {
		return m.any()
	}
	return m.missing(dnsmessage.RCodeSuccess)
}

// answerKey answers a question about the name of a key, or one below it.
func (s *Server) answerKey(ctx context.Context, k kind, key []byte, q *query, from asker, w *work, m *message) result {
	// fit is how many records have room. One peer more shows that there are more.
	fit := 0
	switch {
	case k == kindKey && q.Type == dnsmessage.TypeA:
		fit = m.room() / sizeA
	case k == kindKey && q.Type == dnsmessage.TypeAAAA:
		fit = m.room() / sizeAAAA
	case k == kindService && q.Type == dnsmessage.TypeSRV:
		fit = m.room() / (sizeSRV + len("0--1.ip.") + len(s.zone))
	}
	count, err := s.look(ctx, key, from, fit+1, w)
	if err == nil && k == kindKey && fit > 0 {
		w.collect(q.Type)
		if len(w.addrs) <= fit && count > len(w.peers) {
			// Many peers are of the other family, or at the same addresses. A sample has at least a
			// quarter of each family, or all peers of the family.
			if count, err = s.look(ctx, key, from, 4*(fit+1), w); err == nil {
				w.collect(q.Type)
			}
		}
	}
	switch refusal := (*wire.RefusalError)(nil); {
	case errors.As(err, &refusal):
		m.rcode, m.authoritative = dnsmessage.RCodeRefused, false
		return resultRefused
	case err != nil:
		m.rcode, m.authoritative = dnsmessage.RCodeServerFailure, false
		return resultFailed
	case count == 0:
		return m.missing(dnsmessage.RCodeNameError)
	case q.Type == dnsmessage.TypeALL && k != kindProtocol:
		return m.any()
	case k == kindService && fit > 0:
		return m.services(w, q)
	case fit > 0 && len(w.addrs) > 0:
		return m.addresses(w, q, fit)
	}
	return m.missing(dnsmessage.RCodeSuccess)
}

// look sets w.peers to a sample of the peers of a key, and returns how many there are. There is at least
// one in the sample if there are any.
func (s *Server) look(ctx context.Context, key []byte, from asker, want int, w *work) (count int, err error) {
	for range numLooks {
		if err := ctx.Err(); err != nil {
			return 0, err
		}
		if w.peers, count, err = s.Tracker.Look(ctx, key, from.addr, want, w.peers[:0]); err != nil || count == 0 || len(w.peers) > 0 {
			return count, err
		}
	}
	return 0, errNotFound
}

// errNotFound says that no look has found any of the peers that exist.
var errNotFound = errors.New("no peer was found")

// collect sets w.addrs to the addresses of peers that are of this type, each once.
func (w *work) collect(typ dnsmessage.Type) {
	w.addrs = w.addrs[:0]
	for _, p := range w.peers {
		if a := p.Endpoint.Addr(); typeOf(a) == typ {
			w.addrs = append(w.addrs, a)
		}
	}
	slices.SortFunc(w.addrs, netip.Addr.Compare)
	w.addrs = slices.Compact(w.addrs)
}

// addresses answers with w.addrs, with at most fit of them.
func (m *message) addresses(w *work, q *query, fit int) result {
	rand.Shuffle(len(w.addrs), func(i, j int) { w.addrs[i], w.addrs[j] = w.addrs[j], w.addrs[i] })
	m.startAnswers()
	for _, a := range w.addrs[:min(fit, len(w.addrs))] {
		m.address(q.Name, a, ttl)
	}
	return m.cut(len(w.addrs) > fit)
}

// services answers with the endpoints of peers, and adds the addresses of their targets as far as there
// is room.
func (m *message) services(w *work, q *query) result {
	rand.Shuffle(len(w.peers), func(i, j int) { w.peers[i], w.peers[j] = w.peers[j], w.peers[i] })
	m.startAnswers()
	w.addrs = w.addrs[:0]
	for _, p := range w.peers {
		target := m.target(p.Endpoint.Addr())
		if m.room() < sizeSRV+int(target.Length)+1 {
			break
		}
		m.srv(q.Name, target, p.Endpoint.Port())
		w.addrs = append(w.addrs, p.Endpoint.Addr())
	}
	n := len(w.addrs)
	m.startAdditionals()
	// The zone in a name is a pointer to the question, but only if the client wrote it in lower case, too.
	pointer := 0
	if ns := m.server(); bytes.HasSuffix(ns.Data[:ns.Length], m.zone.Data[:m.zone.Length]) {
		pointer = int(m.zone.Length) - 1
	}
	slices.SortFunc(w.addrs, netip.Addr.Compare)
	for _, a := range slices.Compact(w.addrs) {
		target := m.target(a)
		if m.room() < int(target.Length)-1-pointer+sizeAAAA {
			break
		}
		m.address(target, a, ttl)
	}
	return m.cut(n < len(w.peers))
}

// typeOf is the type of the record for an address. It is 0 for an address that is not valid.
func typeOf(a netip.Addr) dnsmessage.Type {
	switch {
	case a.Is4():
		return dnsmessage.TypeA
	case a.IsValid():
		return dnsmessage.TypeAAAA
	}
	return 0
}

// allows says whether a client may have another answer, and if not, when it may.
func (s *Server) allows(from asker) (wait time.Duration, ok bool) {
	if s.Tracker.Exempts(from.addr) {
		return 0, true
	}
	limit := udpRate
	if from.tcp {
		limit = tcpRate
	}
	return s.used.Allow(from.addr, limit, 1, time.Since(s.start))
}
