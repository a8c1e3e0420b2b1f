package wire

import (
	"cmp"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"net/url"
	"path"
	"slices"
	"strconv"
	"strings"
)

// LocalPort is the port on which `ntrack serve` listens. A tracker on this machine that is named
// without a port has it.
const LocalPort = 6969

// A Tracker is the name of a tracker: where it is, and whether it is native or classic. The zero
// Tracker names none, and every request to it is an error. Make one with [ParseTracker], and compare
// two with [Tracker.Equal].
type Tracker struct {
	url     url.URL
	classic bool
}

// ParseTracker reads the name of one tracker. A native tracker is host, host:port or
// http(s)://host[:port][/ntrk/]; a URL with another path is a classic BitTorrent tracker. "" is
// localhost:6969.
//
// Without a port it is 443 for https, 6969 for localhost and loopback addresses, and 80 for any
// other host. A link-local address may have a zone, as in [fe80::1%eth0]:6969 or, escaped as in
// URLs, [fe80::1%25eth0]:6969. A comma has to be written as %2C, because it separates trackers in
// [ParseTrackers].
//
// With an error the Tracker is the zero one. The error quotes s without the user and the password.
func ParseTracker(s string) (Tracker, error) {
	bad := func(why string) (Tracker, error) {
		return Tracker{}, fmt.Errorf("tracker %s: %s", Quote(Redact(s)), why)
	}
	if strings.Contains(s, ",") {
		return bad("has a comma, which separates trackers; in a path or a password write %2C")
	}
	scheme, rest := cutScheme(cmp.Or(s, "localhost"))
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
	name, _, _ := strings.Cut(u.Host, "%") // a zone after it has upper and lower case
	u.Host = strings.ToLower(name) + u.Host[len(name):]
	u.Fragment, u.RawFragment = "", ""
	switch u.EscapedPath() {
	case "", "/", "/ntrk", "/ntrk/":
		if u.RawQuery != "" {
			return bad("a native tracker's name has no query")
		}
		u.Path, u.RawPath = "/ntrk/", ""
		return Tracker{url: *u}, nil
	}
	// A classic tracker with one of these paths would have no peers.
	switch last := path.Base(u.Path); {
	case strings.HasPrefix(u.Path, "/ntrk/"):
		return bad("ends after /ntrk/; give the key as an argument of its own")
	case strings.Contains(u.Path+"/", "/ntrk/") && !strings.HasPrefix(last, "announce"):
		return bad("a native tracker is named by its host alone: nothing stands before /ntrk/, and no key after it")
	case strings.HasPrefix(last, "scrape"):
		return bad("is where a tracker is scraped; name the URL that ends in /announce")
	}
	return Tracker{url: *u, classic: true}, nil
}

// ParseTrackers reads the names of one or more trackers, separated by commas, each as
// [ParseTracker] does. It ignores white space around a name, and names of a tracker that it already
// has. "" is one tracker, localhost:6969. An empty name among others, as in "a,,b", is an error.
// With an error there are no trackers.
func ParseTrackers(s string) ([]Tracker, error) {
	var trackers []Tracker
	names := strings.Split(s, ",")
	for i, name := range names {
		name = strings.TrimSpace(name)
		if name == "" && len(names) > 1 {
			return nil, fmt.Errorf("trackers %s: name %d of %d is empty", Quote(Redact(s)), i+1, len(names))
		}
		t, err := ParseTracker(name)
		rest := strings.Join(names[i+1:], ",")
		if err != nil && !strings.Contains(name, "@") && strings.Contains(rest, "@") { // name may be half a password
			return nil, fmt.Errorf("trackers %s: a comma in a user or a password has to be percent-encoded: %%2C", Quote(Redact(s)))
		}
		if err != nil {
			return nil, err
		}
		if !slices.ContainsFunc(trackers, t.Equal) {
			trackers = append(trackers, t)
		}
	}
	return trackers, nil
}

// cutScheme splits SCHEME:// off. It returns "" for the scheme if s has none.
func cutScheme(s string) (scheme, rest string) {
	scheme, rest, ok := strings.Cut(s, "://")
	if !ok || scheme == "" || strings.ContainsAny(scheme, ":/?#@[]%") { // then :// is part of a password
		return "", s
	}
	return scheme, rest
}

// isZoneRune reports whether a zone may contain r. Windows has names with spaces, but accepts
// numbers in their place.
func isZoneRune(r rune) bool {
	return ' ' < r && r <= '~' && !strings.ContainsRune(":%[]/\\?#@\"<>", r)
}

// pathHasUser reports whether a delimiter in a password has cut the name at the wrong place. Then
// the host is the start of the password, and the path has the rest of it, an @ and the real host.
func pathHasUser(user, host, tail string) bool {
	if strings.HasPrefix(tail, "/") {
		tail, _, _ = strings.Cut(tail, "?")
	}
	hasPort := strings.Contains(host, ":") && host[0] != '['
	return (user != "" || hasPort) && strings.Contains(tail, "@")
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

// IsLoopbackName reports whether host, a name or an address without a port, always means the local
// machine.
func IsLoopbackName(host string) bool {
	a, err := netip.ParseAddr(host)
	host = strings.ToLower(strings.TrimSuffix(host, "."))
	return host == "localhost" || strings.HasSuffix(host, ".localhost") || err == nil && a.Unmap().IsLoopback()
}

// Check returns an error if t is the zero Tracker, which names none.
func (t Tracker) Check() error {
	if t.url.Host == "" {
		return errors.New("no tracker is named: the zero Tracker is none, and ParseTracker makes one")
	}
	return nil
}

// Loopback reports whether the name always means the local machine.
func (t Tracker) Loopback() bool { return IsLoopbackName(t.url.Hostname()) }

// FullURL returns the tracker's URL with its user and password, and must not be shown. See
// [Tracker.String].
func (t Tracker) FullURL() url.URL { return t.url }

// Equal reports whether both names mean the same tracker and the same user of it.
func (t Tracker) Equal(o Tracker) bool { return t.text() == o.text() }

// String returns the tracker's URL with xxxxx in place of the password. It is "" for the zero
// Tracker.
func (t Tracker) String() string { return t.url.Redacted() }

// LogValue returns [Tracker.String], which keeps the password out of logs.
func (t Tracker) LogValue() slog.Value { return slog.StringValue(t.String()) }

// MarshalText returns a text that [Tracker.UnmarshalText] reads back as an equal Tracker. Unlike
// [Tracker.String], the text has the password. The zero Tracker is an error.
func (t Tracker) MarshalText() ([]byte, error) { return []byte(t.text()), t.Check() }

func (t Tracker) text() string {
	u := t.url
	if strings.Contains(u.Path, "@") { // after a port it would look like the end of a password
		u.Host = strings.TrimSuffix(u.Host, ":"+strconv.Itoa(defaultPort(&u)))
	}
	return strings.ReplaceAll(u.String(), ",", "%2C")
}

// UnmarshalText reads text as [ParseTracker] does. After an error t has its old value.
func (t *Tracker) UnmarshalText(text []byte) error {
	parsed, err := ParseTracker(string(text))
	if err == nil {
		*t = parsed
	}
	return err
}

// HostPort returns the host and the port of the tracker.
func (t Tracker) HostPort() string { return t.url.Host }

// Classic reports whether the tracker speaks the BitTorrent tracker protocol. That has keys of 20
// bytes, no port of origin, and no DELETE to leave.
func (t Tracker) Classic() bool { return t.classic }

// TLS reports whether the tracker is reached over https.
func (t Tracker) TLS() bool { return t.url.Scheme == "https" }

// IndexURL returns the URL of the tracker's list of tracks, without its user and password. For a
// native tracker that is the index. For a classic one it is the scrape of all tracks (BEP 48): the
// last element of the path has "scrape" in place of "announce", and any other path is an error.
func (t Tracker) IndexURL() (*url.URL, error) {
	if err := t.Check(); err != nil {
		return nil, err
	}
	u := t.url
	u.User = nil // errors may quote the URL
	if !t.classic {
		return &u, nil
	}
	last := strings.LastIndexByte(u.Path, '/') + 1
	rest, ok := strings.CutPrefix(u.Path[last:], "announce")
	if !ok {
		return nil, fmt.Errorf("tracker %s: has no scrape, its path does not end in /announce", t)
	}
	u.Path, u.RawPath = u.Path[:last]+"scrape"+rest, ""
	return &u, nil
}
