package wire

import (
	"bytes"
	"encoding/hex"
	"fmt"
	"net/url"
	"strconv"
)

// Limits of a request.
const (
	MaxTarget   = 8192 // bytes of a request target; a longer one is refused
	MaxScrape   = 74   // keys in one scrape
	DefaultWant = 50   // peers in a reply when the request does not say
	NoPeers     = -1   // as Request.Want: just join, or just count
)

// A Verb is what a request asks for.
type Verb uint8

// The verbs.
const (
	VerbAnnounce Verb = iota // join the track or renew, and get other peers
	VerbLook                 // get peers and leave no trace
	VerbLeave                // leave the track
	VerbScrape               // count the peers of Keys; of every key when there are none
)

// A Format is how a reply is written.
type Format uint8

// The formats. FormatUnnamed is a request that names none and gets bencode.
const (
	FormatUnnamed Format = iota
	FormatBencode
	FormatJSON
	FormatText
)

// A Request is what a peer asks of a tracker. Both ends use it: [Request.Parse] reads it from a
// request target, and the client writes the same fields into one.
type Request struct {
	Verb Verb
	Key  Key
	// Keys are what a scrape asks for.
	Keys []Key
	// Port is where the peer can be reached. 0 in an announce or a leave is the port of origin,
	// the port the connection to the tracker comes from.
	Port uint16
	// Want is how many peers to give at most: 0 means DefaultWant, NoPeers none. A tracker has a
	// maximum of its own.
	Want int
	// ID labels the peer; zero for none.
	ID ID

	// Classic says that the request came by, or goes to, the BitTorrent interface.
	Classic bool
	// Compact and NoPeerID choose the form of peers in bencode (BEP 23).
	Compact, NoPeerID bool
	// Format is what the request names as format=; the Accept header is not looked at here.
	Format Format
}

// want is how many peers the request asks for.
func (r *Request) want() int {
	if r.Want == 0 {
		return DefaultWant
	}
	return max(r.Want, 0)
}

// Parse reads a request from its method and its target as sent, absolute-form included. It works
// in place: target is overwritten, r.Key and r.Keys point into it. What is malformed comes back as
// a [*RefusalError] with the status to answer; r then still says in which form. A valid request costs
// no allocation once r.Keys has grown.
func (r *Request) Parse(method string, target []byte) error {
	*r = Request{Keys: r.Keys[:0]}
	if len(target) > MaxTarget {
		r.ParseForm(method, target)
		return refuse(400, "request target of %d bytes: at most %d", len(target), MaxTarget)
	}
	path, query, _ := bytes.Cut(originForm(target), []byte("?"))
	key, native := bytes.CutPrefix(path, []byte("/ntrk/"))
	switch {
	case native:
		return r.parseNative(method, key, query)
	case string(path) == "/announce", string(path) == "/tracker":
		r.Classic = true
	case string(path) == "/scrape":
		r.Classic, r.Verb = true, VerbScrape
	default:
		return refuse(404, "nothing at %s: a key is announced at /ntrk/KEY", Quote(path))
	}
	if method != "GET" && method != "HEAD" {
		r.Classic = false // no BitTorrent client sends this: the status says it too
		return refuse(400, "method %s: the classic interface takes GET", Quote(method))
	}
	return r.parseClassic(method, query)
}

// ParseForm reads only in which form to answer: [Request.Classic] and [Request.Format]. It is for
// requests that are refused before they are parsed. Method and target may be empty, or cut.
func (r *Request) ParseForm(method string, target []byte) {
	*r = Request{Keys: r.Keys[:0]}
	path, query, _ := bytes.Cut(originForm(target), []byte("?"))
	switch string(path) {
	case "/announce", "/tracker", "/scrape":
		r.Classic = method == "GET" || method == "HEAD"
	default:
		if bytes.HasPrefix(path, []byte("/ntrk/")) {
			r.Format = formatNamed(readParams(query)[paramFormat].value)
		}
	}
}

// originForm is the target without scheme and authority, which a client sends to a proxy and a
// server must accept (RFC 9112 section 3.2.2).
func originForm(target []byte) []byte {
	for _, scheme := range []string{"http://", "https://"} {
		if n := len(scheme); len(target) > n && bytes.EqualFold(target[:n], []byte(scheme)) {
			if i := bytes.IndexAny(target[n:], "/?"); i >= 0 {
				return target[n+i:]
			}
		}
	}
	return target
}

func (r *Request) parseNative(method string, key, query []byte) error {
	p := readParams(query)
	r.Format = formatNamed(p[paramFormat].value) // first: it is also the form of a refusal
	switch method {
	case "GET", "POST":
	case "HEAD":
		r.Verb = VerbLook
	case "DELETE":
		r.Verb = VerbLeave
	default:
		return refuse(400, "method %s: /ntrk/KEY takes GET, HEAD, POST, DELETE and OPTIONS", Quote(method))
	}
	if len(key) == 0 {
		if method != "GET" && method != "HEAD" {
			return refuse(400, "method %s: the key is missing after /ntrk/, and the index takes GET", Quote(method))
		}
		r.Verb = VerbScrape
	} else if err := setKey(&r.Key, "key", key); err != nil {
		return err
	}
	for i := range paramInfoHash { // the two after it are of the classic interface
		if p[i].malformed {
			return refuse(400, "%s %s: malformed percent-encoding", paramNames[i], Quote(p[i].value))
		}
	}
	if r.Format == FormatUnnamed && p[paramFormat].given {
		return refuse(400, "format %s: bencode, text or json", Quote(p[paramFormat].value))
	}
	if p[paramPort].given {
		if err := r.setPort(p[paramPort].value); err != nil {
			return err
		}
		switch {
		case r.Port != 0 || r.Verb == VerbScrape:
		case r.Verb == VerbLeave:
			return refuse(400, "port 0: no peer has it; 1 to 65535, or none for the port of origin")
		default:
			r.Verb = VerbLook
		}
	}
	if v := p[paramNumwant]; v.given && !r.setWant(v.value) {
		return refuse(400, "numwant %s: a number of peers, 0 or more", Quote(v.value))
	}
	if v := p[paramPeerID]; v.given && !r.setID(v.value) {
		return refuse(400, "peer_id of %d bytes: 20 raw bytes or 40 hex digits", len(v.value))
	}
	for _, i := range [...]int{paramCompact, paramNoPeerID} {
		if v := p[i]; v.given && string(v.value) != "0" && string(v.value) != "1" {
			return refuse(400, "%s %s: 0 or 1", paramNames[i], Quote(v.value))
		}
	}
	r.setForm(&p)
	return nil
}

// parseClassic is lenient where clients are sloppy and it does no harm: what they send has to
// work unchanged.
func (r *Request) parseClassic(method string, query []byte) error {
	if r.Verb == VerbScrape {
		return r.parseScrape(query)
	}
	p := readParams(query)
	r.setForm(&p) // first: also a failure has it
	if !p[paramInfoHash].given {
		return refuse(400, "info_hash is missing: the key, 1 to %d bytes", MaxKey)
	}
	if p[paramInfoHash].malformed {
		return refuse(400, "info_hash %s: malformed percent-encoding", Quote(p[paramInfoHash].value))
	}
	if err := checkKey(&r.Key, "info_hash", p[paramInfoHash].value); err != nil {
		return err
	}
	if method == "HEAD" {
		r.Verb = VerbLook
	}
	stopped := string(p[paramEvent].value) == "stopped"
	if p[paramPort].given {
		if err := r.setPort(p[paramPort].value); err != nil {
			return err
		}
		if r.Port <= 1 { // what a client sends that cannot be reached
			r.Verb = VerbLook
		}
	}
	r.setWant(p[paramNumwant].value)
	r.setID(p[paramPeerID].value)
	if stopped {
		r.Want = NoPeers
		if r.Verb == VerbAnnounce {
			r.Verb = VerbLeave
		}
	}
	return nil
}

func (r *Request) parseScrape(query []byte) error {
	for len(query) > 0 {
		var name, value []byte
		name, value, query = cutParam(query)
		if string(name) != "info_hash" {
			continue
		}
		if len(r.Keys) == MaxScrape {
			return refuse(400, "info_hash: more than %d in one scrape", MaxScrape)
		}
		r.Keys = append(r.Keys, Key{})
		if err := setKey(&r.Keys[len(r.Keys)-1], "info_hash", value); err != nil {
			return err
		}
	}
	return nil
}

// The parameters that mean something. Everything else a client sends is not looked at.
const (
	paramPort = iota
	paramNumwant
	paramPeerID
	paramCompact
	paramNoPeerID
	paramFormat
	paramInfoHash
	paramEvent
	numParams
)

var paramNames = [numParams]string{"port", "numwant", "peer_id", "compact", "no_peer_id", "format", "info_hash", "event"}

type param struct {
	value     []byte
	given     bool
	malformed bool // value is as sent: its percent-encoding is no good
}

// readParams takes the first of each known parameter and decodes it in place.
func readParams(query []byte) (p [numParams]param) {
	for len(query) > 0 {
		var name, value []byte
		name, value, query = cutParam(query)
		i := 0
		for i < numParams && paramNames[i] != string(name) {
			i++
		}
		if i == numParams || p[i].given {
			continue
		}
		decoded, ok := unescape(value)
		if ok {
			value = decoded
		}
		p[i] = param{value: value, given: true, malformed: !ok}
	}
	return p
}

func cutParam(query []byte) (name, value, rest []byte) {
	field := query
	if i := bytes.IndexByte(query, '&'); i >= 0 {
		field, rest = query[:i], query[i+1:]
	}
	if i := bytes.IndexByte(field, '='); i >= 0 {
		return field[:i], field[i+1:], rest
	}
	return field, nil, rest
}

func setKey(k *Key, name string, escaped []byte) error {
	raw, ok := unescape(escaped)
	if !ok {
		return refuse(400, "%s %s: malformed percent-encoding", name, Quote(escaped))
	}
	return checkKey(k, name, raw)
}

func checkKey(k *Key, name string, raw []byte) error {
	*k = KeyOf(raw)
	if len(raw) == 0 || len(raw) > MaxKey {
		return refuse(400, "%s of %d bytes: 1 to %d are allowed", name, len(raw), MaxKey)
	}
	return nil
}

func (r *Request) setPort(v []byte) error {
	n, ok := number(v, 1<<16)
	if !ok || n > 65535 {
		return refuse(400, "port %s: 0 to 65535", Quote(v))
	}
	r.Port = uint16(n)
	return nil
}

func (r *Request) setWant(v []byte) bool {
	n, ok := number(v, 1<<20)
	switch {
	case !ok:
	case n == 0:
		r.Want = NoPeers
	default:
		r.Want = n
	}
	return ok
}

func (r *Request) setID(v []byte) bool {
	switch len(v) {
	case len(r.ID):
		r.ID = ID(v)
		return true
	case 2 * len(r.ID):
		var id ID
		if _, err := hex.Decode(id[:], v); err != nil {
			return false
		}
		r.ID = id
		return true
	}
	return false
}

func (r *Request) setForm(p *[numParams]param) {
	r.Compact = string(p[paramCompact].value) == "1"
	r.NoPeerID = string(p[paramNoPeerID].value) == "1"
}

// number reads decimal digits and nothing else; what is larger than most is most.
func number(v []byte, most int) (int, bool) {
	n := 0
	for _, c := range v {
		if c < '0' || c > '9' {
			return 0, false
		}
		n = min(n*10+int(c-'0'), most)
	}
	return n, len(v) > 0
}

func formatNamed(v []byte) Format {
	switch string(v) {
	case "bencode":
		return FormatBencode
	case "json":
		return FormatJSON
	case "text":
		return FormatText
	}
	return FormatUnnamed
}

// URL returns the URL of the request to t, without the user and the password of t. A native tracker
// gets JSON to read from its client, the only form that has the port of origin and the ttl. event
// and key are for classic trackers: event is started, stopped or "" for a renewal, and key proves to
// the tracker that a peer with a new address is the same one.
func (r *Request) URL(t Tracker, event string, key uint32) (*url.URL, error) {
	if err := t.Check(); err != nil {
		return nil, err
	}
	u := t.url
	u.User = nil // errors may quote the URL
	if !t.classic {
		u.RawPath = string(AppendEscaped([]byte(u.Path), r.Key.raw))
		u.Path += string(r.Key.raw)
		u.RawQuery = r.nativeQuery()
		return &u, nil
	}
	if u.RawQuery != "" {
		u.RawQuery += "&"
	}
	u.RawQuery += r.classicQuery(event, key)
	return &u, nil
}

func (r *Request) nativeQuery() string {
	var q []byte
	put := func(name, value string) {
		if len(q) > 0 {
			q = append(q, '&')
		}
		q = append(append(append(q, name...), '='), value...)
	}
	if r.Verb == VerbLook || r.Port != 0 {
		put("port", strconv.Itoa(int(r.Port)))
	}
	if r.Verb != VerbLeave && r.Want != 0 {
		put("numwant", strconv.Itoa(max(r.Want, 0)))
	}
	if r.ID != (ID{}) {
		put("peer_id", hex.EncodeToString(r.ID[:]))
	}
	return string(q)
}

// classicQuery has the parameters that every known tracker accepts and that some require. It says
// left=1, because some trackers hide peers that have everything from each other.
func (r *Request) classicQuery(event string, key uint32) string {
	hash := r.Key.InfoHash()
	q := AppendEscaped([]byte("info_hash="), hash[:])
	q = AppendEscaped(append(q, "&peer_id="...), r.ID[:])
	q = fmt.Appendf(q, "&port=%d&uploaded=0&downloaded=0&left=1&compact=1&numwant=%d&key=%08x", r.Port, r.want(), key)
	if event != "" {
		q = append(append(q, "&event="...), event...)
	}
	return string(q)
}
