package wire

import (
	"bytes"
	"encoding/hex"
	"fmt"
	"net/url"
	"strconv"
)

// Limits and special values of a request.
const (
	MaxTarget   = 8192 // the most bytes in the target of a request; a tracker refuses a longer one
	DefaultWant = 50   // the number of peers in a reply if the request asks for no other number
	NoPeers     = -1   // the value of Request.Want that asks for no peers
	maxScrape   = 74   // the most keys in one scrape
)

// A Verb is what a request asks for.
type Verb uint8

// The verbs.
const (
	VerbAnnounce Verb = iota // join the track, or stay in it for another ttl, and get other peers
	VerbLook                 // get peers without joining
	VerbLeave                // leave the track
	VerbScrape               // count the peers of each of Keys, or of every key if Keys is empty
)

// A Format is how a reply is written.
type Format uint8

// The formats.
const (
	FormatUnnamed Format = iota // the request has no format parameter, or one that is not valid
	FormatBencode
	FormatJSON
	FormatText
	FormatHTTPSD // Prometheus' HTTP service discovery; only a look has it
)

// A Request is what a peer asks of a tracker. A client writes it with [Request.URL], and a tracker
// reads it with [Request.Parse].
type Request struct {
	Verb Verb
	// Key is the key of an announce, a look or a leave. A scrape has Keys instead.
	Key  Key
	Keys []Key
	// Port is the port on which other peers can reach the peer. In an announce or a leave, 0 means the
	// port of origin: the source port of the connection to the tracker. Such a request has no port
	// parameter, because port=0 in a URL asks for a look.
	Port uint16
	// Want is how many peers the reply may have. 0 means [DefaultWant], and [NoPeers] means no peers.
	// A tracker may have a lower maximum.
	Want int
	// ID is a label for the peer: see [ParseLabel]. The zero ID means that it has no label.
	ID ID
	// Labels asks for the labels of the peers. Only JSON has them, and only native trackers send them.
	Labels bool

	// Parse sets the fields below for the tracker. A client does not need them.

	// Classic is true for a request to the classic interface, which is for BitTorrent clients.
	Classic bool
	// Token is the access token in the path of a classic request, such as /TOKEN/announce. It is nil
	// if the path has none. A tracker without tokens has to refuse such a path with status 404.
	Token []byte
	// Compact and NoPeerID choose how bencode writes peers (BEP 23).
	Compact, NoPeerID bool
	// Age asks for the age of the tracker's table, in an event stream.
	Age bool
	// Format is the value of the format parameter. A tracker also has to look at the Accept header,
	// which Parse does not get.
	Format Format
}

// want returns how many peers the reply may have.
func (r *Request) want() int {
	if r.Want == 0 {
		return DefaultWant
	}
	return max(r.Want, 0)
}

// Parse reads a request from its method and its target, which may be in absolute form
// (http://host/path). It overwrites the bytes of target; r.Key and r.Keys point to bytes in target.
// Parse allocates no memory for a valid request, except for r.Keys.
//
// The error is a [*RefusalError], which the tracker sends to the client. Even then r.Classic and
// r.Format are set, because they decide how to write the refusal.
func (r *Request) Parse(method string, target []byte) error {
	*r = Request{Keys: r.Keys[:0]}
	path, query, _ := bytes.Cut(originForm(target), []byte("?"))
	key, native := bytes.CutPrefix(path, []byte("/ntrk/"))
	if !native {
		path = r.cutToken(path)
	}
	var err error
	switch {
	case native:
		err = r.parseNative(method, key, query)
	case string(path) == "/announce", string(path) == "/tracker", string(path) == "/scrape":
		// BitTorrent clients use only GET and HEAD, and expect status 200 with a refusal. Other clients get
		// the status of the refusal.
		r.Classic = method == "GET" || method == "HEAD"
		if !r.Classic {
			err = refuse(400, "method %s: the classic interface accepts GET and HEAD", Quote(method))
		} else if string(path) == "/scrape" {
			err = r.parseScrape(query)
		} else {
			err = r.parseClassic(method, query)
		}
	default:
		err = NoPath()
	}
	if len(target) > MaxTarget { // checked last, because the refusal needs r.Classic and r.Format
		return refuse(400, "request target of %d bytes: must have at most %d", len(target), MaxTarget)
	}
	return err
}

// NoPath refuses a path that a tracker does not have. It does not repeat the path, which may have a
// secret.
func NoPath() *RefusalError {
	return refuse(404, "there is nothing at this path: announce a key at /ntrk/KEY")
}

// cutToken removes the token from /TOKEN/announce, /TOKEN/tracker and /TOKEN/scrape, and sets r.Token.
func (r *Request) cutToken(path []byte) []byte {
	i := bytes.LastIndexByte(path, '/')
	if i < 2 || path[0] != '/' || bytes.IndexByte(path[1:i], '/') >= 0 {
		return path
	}
	switch string(path[i:]) {
	case "/announce", "/tracker", "/scrape":
	default:
		return path
	}
	if r.Token = decodeValue(path[1:i]).value; r.Token == nil {
		r.Token = path[:0]
	}
	return path[i:]
}

// originForm removes the scheme and the authority from a target in absolute form. Clients send that
// form to proxies, and every server has to accept it (RFC 9112 section 3.2.2).
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

// The parameters that a tracker knows. It ignores all others.
const (
	paramPort = iota
	paramNumwant
	paramPeerID
	paramCompact
	paramNoPeerID
	paramFormat
	paramAge
	paramLabels
	paramInfoHash
	paramEvent
	numParams

	firstClassicParam = paramInfoHash // native requests have only the parameters before it
)

var paramNames = [numParams]string{"port", "numwant", "peer_id", "compact", "no_peer_id", "format", "age", "labels", "info_hash", "event"}

type param struct {
	value     []byte
	given     bool
	malformed bool // the percent-encoding is wrong, and value is not decoded
}

func (r *Request) parseNative(method string, key, query []byte) error {
	p := readParams(query)
	r.Format = formatNamed(p[paramFormat].value) // before any refusal, which is in this format too
	switch method {
	case "GET", "POST":
	case "HEAD":
		r.Verb = VerbLook
	case "DELETE":
		r.Verb = VerbLeave
	default:
		return refuse(400, "method %s: /ntrk/KEY accepts GET, HEAD, POST, DELETE and OPTIONS", Quote(method))
	}
	if len(key) == 0 {
		if method != "GET" && method != "HEAD" {
			return refuse(400, "method %s: the key after /ntrk/ is missing; /ntrk/ alone is the index, which accepts GET and HEAD", Quote(method))
		}
		r.Verb = VerbScrape
	} else if err := r.Key.set("key", decodeValue(key)); err != nil {
		return err
	}
	for i := range firstClassicParam {
		if p[i].malformed {
			return refuse(400, "%s %s: malformed percent-encoding", paramNames[i], Quote(p[i].value))
		}
	}
	if r.Format == FormatUnnamed && p[paramFormat].given {
		return refuse(400, "format %s: must be bencode, text, json or http_sd", Quote(p[paramFormat].value))
	}
	if r.Format == FormatHTTPSD {
		if r.Verb == VerbScrape || method != "GET" && method != "HEAD" {
			return refuse(400, "format http_sd: lists the peers of a key; send GET /ntrk/KEY?format=http_sd")
		}
		r.Verb = VerbLook
	}
	if p[paramPort].given {
		if err := r.setPort(p[paramPort].value); err != nil {
			return err
		}
		switch {
		case r.Port != 0 || r.Verb == VerbScrape:
		case r.Verb == VerbLeave:
			return refuse(400, "port 0: must be 1 to 65535; leave it out for the source port of the connection")
		default:
			r.Verb = VerbLook
		}
	}
	if v := p[paramNumwant]; v.given && !r.setWant(v.value) {
		return refuse(400, "numwant %s: must be a number, 0 or more", Quote(v.value))
	}
	if v := p[paramPeerID]; v.given && !r.setID(v.value) {
		return refuse(400, "peer_id of %d bytes: must be 20 raw bytes or 40 hex digits", len(v.value))
	}
	for _, i := range [...]int{paramCompact, paramNoPeerID, paramAge, paramLabels} {
		if v := p[i]; v.given && string(v.value) != "0" && string(v.value) != "1" {
			return refuse(400, "%s %s: must be 0 or 1", paramNames[i], Quote(v.value))
		}
	}
	r.setPeerForm(&p)
	r.Age = string(p[paramAge].value) == "1"
	r.Labels = string(p[paramLabels].value) == "1"
	return nil
}

// parseClassic ignores mistakes that do no harm, because existing BitTorrent clients make them.
func (r *Request) parseClassic(method string, query []byte) error {
	p := readParams(query)
	if !p[paramInfoHash].given {
		return refuse(400, "info_hash is missing: it must be the key, 1 to %d bytes", MaxKey)
	}
	if err := r.Key.set("info_hash", p[paramInfoHash]); err != nil {
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
		if r.Port <= 1 { // a client that no peer can reach sends port 0 or 1
			r.Verb = VerbLook
		}
	}
	r.setWant(p[paramNumwant].value)
	r.setID(p[paramPeerID].value)
	r.setPeerForm(&p)
	if stopped {
		r.Want = NoPeers
		if r.Verb == VerbAnnounce {
			r.Verb = VerbLeave
		}
	}
	return nil
}

func (r *Request) parseScrape(query []byte) error {
	r.Verb = VerbScrape
	for len(query) > 0 {
		var name, value []byte
		name, value, query = cutParam(query)
		if string(name) != "info_hash" {
			continue
		}
		if len(r.Keys) == maxScrape {
			return refuse(400, "info_hash: a scrape must have at most %d", maxScrape)
		}
		r.Keys = append(r.Keys, Key{})
		if err := r.Keys[len(r.Keys)-1].set("info_hash", decodeValue(value)); err != nil {
			return err
		}
	}
	return nil
}

// readParams returns the parameters that a tracker knows. It decodes their values in place. If a
// parameter is repeated, the first one counts.
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
		p[i] = decodeValue(value)
	}
	return p
}

// cutParam splits off the first parameter. (IndexByte is faster here than bytes.Cut.)
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

// decodeValue decodes the value of a parameter, or the key in a path, in place.
func decodeValue(value []byte) param {
	decoded, ok := unescape(value)
	if !ok {
		return param{value: value, given: true, malformed: true}
	}
	return param{value: decoded, given: true}
}

// set sets k to the value of p. The name of p is for the error.
func (k *Key) set(name string, p param) error {
	if p.malformed {
		return refuse(400, "%s %s: malformed percent-encoding", name, Quote(p.value))
	}
	*k = KeyOf(p.value)
	if len(p.value) == 0 || len(p.value) > MaxKey {
		return refuse(400, "%s of %d bytes: must have 1 to %d", name, len(p.value), MaxKey)
	}
	return nil
}

func (r *Request) setPort(v []byte) error {
	n, ok := number(v, 1<<16)
	if !ok || n > 65535 {
		return refuse(400, "port %s: must be 0 to 65535", Quote(v))
	}
	r.Port = uint16(n)
	return nil
}

// setWant returns false if v is not a number.
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

// setID returns false if v is not a peer id.
func (r *Request) setID(v []byte) bool {
	switch len(v) {
	case len(r.ID):
		r.ID = ID(v)
		return true
	case 2 * len(r.ID):
		var id ID
		if _, err := hex.Decode(id[:], v); err == nil {
			r.ID = id
			return true
		}
	}
	return false
}

func (r *Request) setPeerForm(p *[numParams]param) {
	r.Compact = string(p[paramCompact].value) == "1"
	r.NoPeerID = string(p[paramNoPeerID].value) == "1"
}

// number reads a number of decimal digits. A number above limit is returned as limit. ok is false if
// v is empty or has any other character.
func number(v []byte, limit int) (n int, ok bool) {
	for _, c := range v {
		if c < '0' || c > '9' {
			return 0, false
		}
		n = min(n*10+int(c-'0'), limit)
	}
	return n, len(v) > 0
}

// isNumber reports whether s is a number of decimal digits, of any size.
func isNumber(s string) bool {
	_, ok := number([]byte(s), 1)
	return ok
}

func formatNamed(v []byte) Format {
	switch string(v) {
	case "bencode":
		return FormatBencode
	case "json":
		return FormatJSON
	case "text":
		return FormatText
	case "http_sd":
		return FormatHTTPSD
	}
	return FormatUnnamed
}

// URL returns the URL of the request to t, without the user and the password of t. The request is an
// announce, a look or a leave; [Tracker.IndexURL] is the URL of a scrape. URL ignores Keys and the
// fields that Parse sets for the tracker.
//
// event and secret are for classic trackers; the URL of a native tracker has neither. event is
// started, stopped or, in a renewal, "". The verb does not decide it, because a look at a classic
// tracker is sent as a stop. secret becomes the parameter key (not r.Key): it proves to the tracker
// that a peer with a new address is still the same peer.
func (r *Request) URL(t Tracker, event string, secret uint32) (*url.URL, error) {
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
	u.RawQuery += r.classicQuery(event, secret)
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
	if r.Labels && r.Verb != VerbLeave {
		put("labels", "1")
	}
	return string(q)
}

// classicQuery returns the parameters that every known tracker accepts and that some require. It has
// left=1, because left=0 means that the peer has the whole torrent, and some trackers do not list
// such peers to each other.
func (r *Request) classicQuery(event string, secret uint32) string {
	hash := r.Key.InfoHash()
	q := AppendEscaped([]byte("info_hash="), hash[:])
	q = AppendEscaped(append(q, "&peer_id="...), r.ID[:])
	q = fmt.Appendf(q, "&port=%d&uploaded=0&downloaded=0&left=1&compact=1&numwant=%d&key=%08x", r.Port, r.want(), secret)
	if event != "" {
		q = append(append(q, "&event="...), event...)
	}
	return string(q)
}
