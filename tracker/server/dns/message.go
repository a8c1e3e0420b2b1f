package dns

import (
	"net/netip"

	"golang.org/x/net/dns/dnsmessage"
)

// Types of questions that dnsmessage does not name, or names otherwise.
const (
	typeIXFR = dnsmessage.Type(251)
	typeAXFR = dnsmessage.TypeAXFR
)

// A message is a reply that is being written.
type message struct {
	dnsmessage.Builder
	q     *query
	start int             // where the message begins in its buffer
	zone  dnsmessage.Name // as the client has written it

	rcode         dnsmessage.RCode
	badVersion    bool
	authoritative bool
	truncated     bool
	additional    bool // its last section has begun
	err           error
}

// newMessage begins a reply with the question.
func newMessage(q *query, dst []byte) message {
	m := message{q: q, start: len(dst)}
	m.Builder = dnsmessage.NewBuilder(dst, dnsmessage.Header{ID: q.ID, Response: true, OpCode: q.OpCode, RecursionDesired: q.RecursionDesired})
	m.EnableCompression()
	if q.asked {
		m.keep(m.StartQuestions())
		m.keep(m.Builder.Question(q.Question))
	}
	return m
}

func (m *message) keep(err error) {
	if m.err == nil {
		m.err = err
	}
}

// finish ends the message.
func (m *message) finish() []byte {
	if m.q.edns {
		var h dnsmessage.ResourceHeader
		ext := dnsmessage.RCode(0)
		if m.badVersion {
			ext = 16
		}
		m.keep(h.SetEDNS0(maxPacket, ext, false))
		m.startAdditionals()
		m.keep(m.OPTResource(h, dnsmessage.OPTResource{}))
	}
	msg, err := m.Finish()
	m.keep(err)
	head := msg[m.start:]
	if m.authoritative {
		head[2] |= 1 << 2
	}
	if m.truncated {
		head[2] |= 1 << 1
	}
	head[3] |= byte(m.rcode)
	if m.err != nil {
		// No name that was read is too long to write, so this should not happen.
		msg = msg[:m.start+12]
		head = msg[m.start:]
		head[3] = byte(dnsmessage.RCodeServerFailure)
		clear(head[4:])
	}
	return msg
}

// room is how many bytes may be added before finish.
func (m *message) room() int {
	b := m.Builder // a copy, which Finish may end
	msg, _ := b.Finish()
	room := m.q.size - (len(msg) - m.start)
	if m.q.edns {
		room -= sizeOPT
	}
	return room
}

func (m *message) startAnswers() { m.keep(m.Builder.StartAnswers()) }

func (m *message) startAdditionals() {
	if !m.additional {
		m.additional = true
		m.keep(m.Builder.StartAdditionals())
	}
}

func header(name dnsmessage.Name, ttl uint32) dnsmessage.ResourceHeader {
	return dnsmessage.ResourceHeader{Name: name, Class: dnsmessage.ClassINET, TTL: ttl}
}

func (m *message) address(name dnsmessage.Name, a netip.Addr, ttl uint32) {
	if a.Is4() {
		m.keep(m.AResource(header(name, ttl), dnsmessage.AResource{A: a.As4()}))
	} else {
		m.keep(m.AAAAResource(header(name, ttl), dnsmessage.AAAAResource{AAAA: a.As16()}))
	}
}

// srv adds an SRV record. All weights are equal. They are not 0, because HAProxy would send nothing
// there.
func (m *message) srv(name, target dnsmessage.Name, port uint16) {
	m.keep(m.SRVResource(header(name, ttl), dnsmessage.SRVResource{Weight: 1, Port: port, Target: target}))
}

// below is the name of label in the zone, in lower case. Some resolvers change the case of letters in each
// query, to recognize forged replies, and pass on the names in records as they are. So a program would see
// the same target by many names.
func (m *message) below(label []byte) (n dnsmessage.Name) {
	b := append(append(n.Data[:0], label...), '.')
	for _, c := range m.zone.Data[:m.zone.Length] {
		if 'A' <= c && c <= 'Z' {
			c += 'a' - 'A'
		}
		b = append(b, c)
	}
	n.Length = uint8(len(b))
	return n
}

// target is the name of an address.
func (m *message) target(a netip.Addr) dnsmessage.Name {
	var label [64]byte
	return m.below(append(append(appendAddressLabel(label[:0], a), '.'), addressLabel...))
}

// server is the name of this server.
func (m *message) server() dnsmessage.Name { return m.below([]byte(serverLabel)) }

func (m *message) ns() {
	m.keep(m.NSResource(header(m.zone, ttlZone), dnsmessage.NSResource{NS: m.server()}))
}

// soa adds the record about the zone. Nothing copies the zone, so most of it has no meaning, except for
// MinTTL.
func (m *message) soa(ttl uint32) {
	m.keep(m.SOAResource(header(m.zone, ttl), dnsmessage.SOAResource{NS: m.server(), MBox: m.below([]byte("hostmaster")),
		Serial: 1, Refresh: 3600, Retry: 600, Expire: 86400, MinTTL: ttlMissing}))
}

// missing says that there is no such name, or no such record (RFC 2308).
func (m *message) missing(rcode dnsmessage.RCode) result {
	m.rcode = rcode
	m.keep(m.StartAuthorities())
	m.soa(ttlMissing)
	if rcode == dnsmessage.RCodeNameError {
		return resultNoName
	}
	return resultNoData
}

// any answers a question for records of any type (RFC 8482 section 4.2).
func (m *message) any() result {
	m.startAnswers()
	m.keep(m.UnknownResource(header(m.q.Name, ttl), dnsmessage.UnknownResource{Type: dnsmessage.TypeHINFO, Data: []byte("\x07RFC8482\x00")}))
	return resultAnswered
}

// cut marks the reply as truncated if it has not all records, unless it came over TCP: then there is no
// other way to get more.
func (m *message) cut(short bool) result {
	if !short || m.q.size > maxPacket {
		return resultAnswered
	}
	m.truncated = true
	return resultTruncated
}
