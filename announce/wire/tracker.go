package wire

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"path"
	"strconv"
	"strings"
)

// LocalPort is where `ntrack serve` listens, and the port of a tracker on this machine that is
// named without one.
const LocalPort = 6969

// A Tracker says where a tracker is and which interface it is spoken to by. The zero Tracker is
// localhost:6969, native.
type Tracker struct {
	url     url.URL
	classic bool
}

// ParseTracker reads a tracker's name: host, host:port or http(s)://host[:port][/ntrk/] for the
// native interface, a URL with another path for a classic BitTorrent tracker. Without a port it
// is 80, with https 443, and 6969 for localhost and loopback addresses over http. "" is
// localhost:6969. A link-local address may have a zone, as in [fe80::1%eth0]:6969, which may be
// escaped as in URLs: %25eth0. Errors quote s without the user and the password that it may have.
func ParseTracker(s string) (Tracker, error) {
	if s == "" {
		return Tracker{}, nil
	}
	bad := func(why string) (Tracker, error) {
		return Tracker{}, fmt.Errorf("tracker %s: %s", Quote(Redact(s)), why)
	}
	scheme, rest := cutScheme(s)
	authority, tail := rest, ""
	if i := strings.IndexAny(rest, "/?#"); i >= 0 {
		authority, tail = rest[:i], rest[i:]
	}
	at := strings.LastIndexByte(authority, '@') + 1
	user, host := authority[:at], UnescapeZone(authority[at:])
	if a, err := netip.ParseAddr(host); err == nil && a.Is6() && scheme == "" {
		host = "[" + host + "]"
	}
	address, zone, zoned := strings.Cut(host, "%")
	if zone, port, closed := strings.Cut(zone, "]"); zoned && closed && host[0] == '[' {
		if zone == "" || strings.ContainsFunc(zone, func(r rune) bool { return !isZoneRune(r) }) {
			return bad("the zone after % is no name of a network interface")
		}
		host = address + "%25" + zone + "]" + port
	}
	if pathHasUser(user, host, tail) {
		return bad("a / ? # or @ in a user, a password or a path has to be percent-encoded: %2F %3F %23 %40")
	}
	u, err := url.Parse(cmp.Or(scheme, "http") + "://" + host + tail)
	if err != nil {
		var cause *url.Error // it repeats the URL
		if errors.As(err, &cause) {
			err = cause.Err
		}
		return bad(fmt.Sprintf("%v; name it host, host:port or http(s)://host[:port]/", err))
	}
	if user != "" {
		of, err := url.Parse("http://" + user + "host")
		if err != nil {
			return bad("what is special in a user or a password has to be percent-encoded")
		}
		u.User = of.User
	}
	switch u.Scheme {
	case "http", "https":
	case "udp":
		return bad("the UDP tracker protocol is not spoken here; most such trackers have an http(s) URL too")
	default:
		return bad("scheme " + Quote(u.Scheme) + " is not http or https")
	}
	if u.Hostname() == "" {
		return bad("names no host")
	}
	if a, err := netip.ParseAddr(u.Hostname()); strings.ContainsAny(u.Hostname(), " /\\\"<>") ||
		strings.ContainsAny(u.Hostname(), "%:") && (err != nil || !a.Is6()) {
		return bad("is no host name")
	}
	switch p := u.Port(); {
	case p == "" && strings.HasSuffix(u.Host, ":"):
		return bad("the port after the colon is missing")
	case p == "":
		u.Host = net.JoinHostPort(u.Hostname(), strconv.Itoa(defaultPort(u)))
	default:
		if n, err := strconv.ParseUint(p, 10, 16); err != nil || n == 0 {
			return bad("port " + Quote(p) + " is not 1 to 65535")
		}
	}
	if name, zone, zoned := strings.Cut(u.Host, "%"); zoned { // names of interfaces have upper and lower case
		u.Host = strings.ToLower(name) + "%" + zone
	} else {
		u.Host = strings.ToLower(u.Host)
	}
	u.Fragment, u.RawFragment = "", ""
	t := Tracker{url: *u}
	switch u.EscapedPath() {
	case "", "/", "/ntrk", "/ntrk/":
		if u.RawQuery != "" {
			return bad("a native tracker's name has no query")
		}
		t.url.Path, t.url.RawPath = "/ntrk/", ""
	default:
		if strings.HasPrefix(u.Path, "/ntrk/") {
			return bad("ends after /ntrk/; give the key as an argument of its own")
		}
		// As the path of a classic tracker each of these would find nobody.
		switch last := path.Base(u.Path); {
		case strings.Contains(u.Path+"/", "/ntrk/") && !strings.HasPrefix(last, "announce"):
			return bad("a native tracker is named by its host alone: nothing stands before /ntrk/, and no key after it")
		case strings.HasPrefix(last, "scrape"):
			return bad("is where a tracker is scraped; name the URL that ends in /announce")
		}
		t.classic = true
	}
	return t, nil
}

// cutScheme splits SCHEME:// off; without one, scheme is "".
func cutScheme(s string) (scheme, rest string) {
	scheme, rest, ok := strings.Cut(s, "://")
	if !ok || scheme == "" || strings.ContainsAny(scheme, ":/?#@[]%") { // it belongs to a password
		return "", s
	}
	return scheme, rest
}

// isZoneRune says that a zone may have r. Windows has names with spaces; its numbers do as well.
func isZoneRune(r rune) bool {
	return ' ' < r && r <= '~' && !strings.ContainsRune(":%[]/\\?#@\"<>", r)
}

// pathHasUser says that a delimiter in a password has cut it into what looks like a port, or like
// a password and a host, and a path.
func pathHasUser(user, host, tail string) bool {
	if strings.HasPrefix(tail, "/") {
		tail, _, _ = strings.Cut(tail, "?")
	}
	hasPort := strings.Contains(host, ":") && host[0] != '['
	return (user != "" || hasPort) && strings.Contains(tail, "@")
}

// Redact hides the user and the password in what may be a tracker's name, whether or not
// [ParseTracker] would take it, so that it can be shown.
func Redact(s string) string {
	_, rest := cutScheme(s)
	begin, end := len(s)-len(rest), strings.LastIndexByte(s, '@')
	if end < begin || begin == 0 && !strings.Contains(s[:end], ":") {
		return s
	}
	return s[:begin] + "..." + s[end:]
}

// UnescapeZone writes the zone of an address as %eth0 where it is %25eth0, as in URLs (RFC 6874).
// Both are in use. The zone 25 is %25 or %2525.
func UnescapeZone(s string) string {
	before, zone, ok := strings.Cut(s, "%25")
	if !ok || zone == "" || zone[0] == ']' {
		return s
	}
	return before + "%" + zone
}

func defaultPort(u *url.URL) int {
	switch {
	case u.Scheme == "https":
		return 443
	case IsLoopbackName(u.Hostname()):
		return LocalPort
	}
	return 80
}

func IsLoopbackName(host string) bool {
	a, err := netip.ParseAddr(host)
	host = strings.ToLower(strings.TrimSuffix(host, "."))
	return host == "localhost" || strings.HasSuffix(host, ".localhost") || err == nil && a.Unmap().IsLoopback()
}

// Loopback says that the tracker's name means this machine, whatever machine that is.
func (t Tracker) Loopback() bool {
	u := t.norm().url
	return IsLoopbackName(u.Hostname())
}

func (t Tracker) norm() Tracker {
	if t.url.Host == "" {
		t.url = url.URL{Scheme: "http", Host: fmt.Sprint("localhost:", LocalPort), Path: "/ntrk/"}
	}
	return t
}

// URL is the tracker's URL, with the user and the password that it may have.
func (t Tracker) URL() url.URL { return t.norm().url }

// Equal says that two names mean the same tracker by the same user.
func (t Tracker) Equal(o Tracker) bool {
	a, b := t.norm(), o.norm()
	return a.url.String() == b.url.String()
}

// String is the tracker's URL, without the password it may have.
func (t Tracker) String() string {
	t = t.norm()
	return t.url.Redacted()
}

// HostPort is where the tracker is connected to.
func (t Tracker) HostPort() string { return t.norm().url.Host }

// Classic says that the tracker is spoken to as a BitTorrent tracker: 20-byte keys, no port of
// origin, no leaving by DELETE.
func (t Tracker) Classic() bool { return t.classic }

// TLS says that the tracker is reached over https.
func (t Tracker) TLS() bool { return t.url.Scheme == "https" }

// ScrapeURL is where a classic tracker is scraped: "announce" at the start of the last path element
// becomes "scrape" (BEP 48). A URL without it has no scrape.
func (t Tracker) ScrapeURL() (url.URL, error) {
	u := t.url
	u.User = nil
	dir, last := u.Path[:strings.LastIndexByte(u.Path, '/')+1], u.Path[strings.LastIndexByte(u.Path, '/')+1:]
	rest, ok := strings.CutPrefix(last, "announce")
	if !ok {
		return u, fmt.Errorf("tracker %s: has no scrape, its path does not end in /announce", t)
	}
	u.Path, u.RawPath = dir+"scrape"+rest, ""
	return u, nil
}

// Target is the URL of a request: to another path of the same server, which may have a query, or
// with query appended to whatever the tracker's URL has already.
func (t Tracker) Target(path, query []byte) *url.URL {
	u := t.norm().url
	u.User = nil // errors may quote the URL
	if path != nil {
		before, after, _ := bytes.Cut(path, []byte("?"))
		u.RawPath, u.RawQuery = string(before), string(after)
		u.Path, _ = url.PathUnescape(u.RawPath)
		return &u
	}
	if u.RawQuery != "" {
		u.RawQuery += "&"
	}
	u.RawQuery += string(query)
	return &u
}
