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

// LocalPort is the port on which `ntrack serve` listens. It is also the default port of a tracker on
// this machine.
const LocalPort = 6969

// A Tracker is the URL of a tracker. A native tracker speaks ntrack's own protocol; the path of its
// URL is /ntrk/. A classic tracker speaks the BitTorrent tracker protocol; it has any other path.
//
// The zero Tracker has no URL, and every request to it is an error. Make a Tracker with
// [ParseTracker], and compare two with [Tracker.Equal].
type Tracker struct {
	url     url.URL
	classic bool
}

// ParseTracker reads one tracker as a person writes it. A native tracker is host, host:port or
// http(s)://host[:port][/ntrk/]. A URL with another path is a classic tracker. "" is localhost:6969.
//
// The default port is 443 for https, 6969 for localhost and loopback addresses, and 80 for any other
// host. A link-local address may have a zone: [fe80::1%eth0]:6969, or [fe80::1%25eth0]:6969 with the
// escape of URLs. Write a comma as %2C, because a comma separates trackers in [ParseTrackers].
//
// If ParseTracker returns an error, the Tracker is zero. The error quotes s without the user and the
// password.
func ParseTracker(s string) (Tracker, error) {
	t, err := parseTracker(cmp.Or(s, "localhost"))
	if err != nil {
		return Tracker{}, fmt.Errorf("tracker %s: %w", Quote(Redact(s)), err)
	}
	return t, nil
}

func parseTracker(s string) (Tracker, error) {
	if strings.Contains(s, ",") {
		return Tracker{}, errors.New("only one tracker is allowed here, and a comma separates trackers; in a path or a password write %2C")
	}
	u, err := parseURL(s)
	if err != nil {
		return Tracker{}, err
	}
	switch u.Scheme {
	case "http", "https":
	case "udp":
		return Tracker{}, errors.New("the UDP tracker protocol is not supported; most such trackers have an http(s) URL too")
	default:
		return Tracker{}, fmt.Errorf("scheme %s is not http or https", Quote(u.Scheme))
	}
	if err := checkHost(u.Hostname()); err != nil {
		return Tracker{}, err
	}
	if err := setPort(u); err != nil {
		return Tracker{}, err
	}
	beforeZone, _, _ := strings.Cut(u.Host, "%") // the names of interfaces are case-sensitive
	u.Host = strings.ToLower(beforeZone) + u.Host[len(beforeZone):]
	u.Fragment, u.RawFragment = "", ""
	switch u.EscapedPath() {
	case "", "/", "/ntrk", "/ntrk/":
		if u.RawQuery != "" {
			return Tracker{}, errors.New("the URL of a native tracker must not have a query (the part after ?)")
		}
		u.Path, u.RawPath = "/ntrk/", ""
		return Tracker{url: *u}, nil
	}
	return Tracker{url: *u, classic: true}, checkClassicPath(u.Path)
}

// parseURL reads a tracker as a URL. It reads the user and the zone itself, because package net/url
// refuses some forms that people write.
func parseURL(s string) (*url.URL, error) {
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
	host, err := escapeZone(host)
	if err != nil {
		return nil, err
	}
	if cutInPassword(user, host, tail) {
		return nil, errors.New("in a user or a password write / ? # @ as %2F %3F %23 %40; in a path write @ as %40")
	}
	u, err := url.Parse(cmp.Or(scheme, "http") + "://" + host + tail)
	if err != nil {
		var cause *url.Error // it repeats the URL
		if errors.As(err, &cause) {
			err = cause.Err
		}
		return nil, fmt.Errorf("%v; write it as host, host:port or http(s)://host[:port]/", err)
	}
	if user != "" {
		withUser, err := url.Parse("http://" + user + "host")
		if err != nil {
			return nil, errors.New("special characters in a user or a password have to be percent-encoded")
		}
		u.User = withUser.User
	}
	return u, nil
}

// escapeZone writes the zone of an address in brackets as URLs do: %25eth0 for %eth0.
func escapeZone(host string) (string, error) {
	address, rest, hasZone := strings.Cut(host, "%")
	zone, port, hasBracket := strings.Cut(rest, "]")
	if !hasZone || !hasBracket || host[0] != '[' {
		return host, nil
	}
	if !isZone(zone) {
		return "", errZone
	}
	return address + "%25" + zone + "]" + port, nil
}

func checkHost(host string) error {
	if host == "" {
		return errors.New("there is no host name")
	}
	a, err := netip.ParseAddr(host)
	isIPv6 := err == nil && a.Is6()
	if strings.ContainsAny(host, " /\\\"<>") || strings.ContainsAny(host, "%:") && !isIPv6 {
		return errors.New("the host is not a host name or an IP address")
	}
	if a.Zone() != "" && !isZone(a.Zone()) { // in "[::%eth0]]" a bracket hides a part of it from escapeZone
		return errZone
	}
	return nil
}

// setPort checks the port of u, or adds the default port.
func setPort(u *url.URL) error {
	switch port := u.Port(); {
	case port == "" && strings.HasSuffix(u.Host, ":"):
		return errors.New("the port after the colon is missing")
	case port == "":
		u.Host = net.JoinHostPort(u.Hostname(), strconv.Itoa(defaultPort(u)))
	default:
		if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 {
			return fmt.Errorf("port %s is not 1 to 65535", Quote(port))
		}
	}
	return nil
}

// checkClassicPath refuses a path that is probably a mistake: a native tracker with more than its URL,
// or the URL of a scrape.
func checkClassicPath(p string) error {
	switch last := path.Base(p); {
	case strings.HasPrefix(p, "/ntrk/"):
		return errors.New("the URL of a native tracker must end after /ntrk/; give the key as a separate argument")
	case strings.Contains(p+"/", "/ntrk/") && !strings.HasPrefix(last, "announce"):
		return errors.New("a native tracker is named by its host alone: remove what is before /ntrk/ and the key after it")
	case strings.HasPrefix(last, "scrape"):
		return errors.New("this is the URL of a scrape; write the URL that ends in /announce")
	}
	return nil
}

// ParseTrackers reads one or more trackers, separated by commas. It reads each one as [ParseTracker]
// does, and ignores white space around it. If a tracker is repeated, it is returned once. "" is one
// tracker, localhost:6969. An empty name among others, as in "a,,b", is an error. If ParseTrackers
// returns an error, it returns no trackers.
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
		if err != nil && !strings.Contains(name, "@") && strings.Contains(rest, "@") {
			// The comma may be inside a password. Then name ends in the first half of the password.
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

// cutScheme removes SCHEME:// from the start of s. The scheme is "" if s does not begin with one.
func cutScheme(s string) (scheme, rest string) {
	scheme, rest, ok := strings.Cut(s, "://")
	if !ok || scheme == "" || strings.ContainsAny(scheme, ":/?#@[]%") { // not a scheme; the :// may be inside a password
		return "", s
	}
	return scheme, rest
}

var errZone = errors.New("the zone after % is not the name of a network interface")

// isZone reports whether a text may be the zone of an address.
func isZone(s string) bool {
	return s != "" && !strings.ContainsFunc(s, func(r rune) bool { return !isZoneRune(r) })
}

// isZoneRune reports whether a zone may contain r. It refuses a space, although names of interfaces on
// Windows may have spaces. There the number of the interface can be the zone instead.
func isZoneRune(r rune) bool {
	return ' ' < r && r <= '~' && !strings.ContainsRune(":%[]/\\?#@\"<>", r)
}

// cutInPassword reports whether the name was cut inside a password, at a / ? or #. For example,
// user:pa/ss@host is cut into the host user:pa and the path /ss@host.
func cutInPassword(user, host, tail string) bool {
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

// IsLoopbackName reports whether host always means the local machine. host is a name or an address
// without a port.
func IsLoopbackName(host string) bool {
	a, err := netip.ParseAddr(host)
	host = strings.ToLower(strings.TrimSuffix(host, "."))
	return host == "localhost" || strings.HasSuffix(host, ".localhost") || err == nil && a.Unmap().IsLoopback()
}

// Check returns an error if t is the zero Tracker.
func (t Tracker) Check() error {
	if t.url.Host == "" {
		return errors.New("no tracker is named: the Tracker is zero; make one with ParseTracker")
	}
	return nil
}

// Loopback reports whether the tracker is always on the local machine. See [IsLoopbackName].
func (t Tracker) Loopback() bool { return IsLoopbackName(t.url.Hostname()) }

// FullURL returns the URL with its user and password. Do not show the result: [Tracker.String] is for
// that.
func (t Tracker) FullURL() url.URL { return t.url }

// Equal reports whether t and o have the same URL, with the same user and password.
func (t Tracker) Equal(o Tracker) bool { return t.text() == o.text() }

// String returns the URL with xxxxx in place of the password, and of the parts of a classic path and
// query that may be a token or a passkey. It returns "" for the zero Tracker.
func (t Tracker) String() string {
	u := t.url
	if t.classic {
		path, query, hasQuery := strings.Cut(redactPath(u.EscapedPath()+"?"+u.RawQuery), "?")
		u.Path, u.RawPath, u.RawQuery = path, "", ""
		if hasQuery && t.url.RawQuery != "" {
			u.RawQuery = query
		}
	}
	return u.Redacted()
}

// Conceal replaces in text, such as the reason of a refusal, the parts of the tracker's path and query
// that String hides.
func (t Tracker) Conceal(text string) string {
	if !t.classic {
		return text
	}
	for _, secret := range slices.Concat(strings.Split(t.url.EscapedPath(), "/"), strings.Split(t.url.Path, "/"), strings.FieldsFunc(t.url.RawQuery, func(r rune) bool { return r == '&' })) {
		if _, value, ok := strings.Cut(secret, "="); ok {
			secret = value
		}
		if secret != "" && redactPath("/"+secret) != "/"+secret {
			text = strings.ReplaceAll(text, secret, "xxxxx")
		}
	}
	return text
}

// LogValue returns [Tracker.String], which keeps the password out of logs.
func (t Tracker) LogValue() slog.Value { return slog.StringValue(t.String()) }

// MarshalText returns a text that [Tracker.UnmarshalText] reads back as an equal Tracker. The text has
// the password, unlike [Tracker.String]. For the zero Tracker it returns an error.
func (t Tracker) MarshalText() ([]byte, error) { return []byte(t.text()), t.Check() }

// text returns the URL with its password, as ParseTracker reads it back.
func (t Tracker) text() string {
	u := t.url
	if strings.Contains(u.Path, "@") { // after a port, ParseTracker would read this @ as the end of a password
		u.Host = strings.TrimSuffix(u.Host, ":"+strconv.Itoa(defaultPort(&u)))
	}
	return strings.ReplaceAll(u.String(), ",", "%2C")
}

// UnmarshalText reads text as [ParseTracker] does. If it returns an error, t is unchanged.
func (t *Tracker) UnmarshalText(text []byte) error {
	parsed, err := ParseTracker(string(text))
	if err == nil {
		*t = parsed
	}
	return err
}

// HostPort returns the host and the port of the tracker as HOST:PORT, an IPv6 address in brackets.
func (t Tracker) HostPort() string { return t.url.Host }

// Classic reports whether the tracker speaks the BitTorrent tracker protocol. In that protocol a key
// has 20 bytes, every announce has to name a port, and a peer leaves with event=stopped.
func (t Tracker) Classic() bool { return t.classic }

// TLS reports whether the scheme of the URL is https.
func (t Tracker) TLS() bool { return t.url.Scheme == "https" }

// IndexURL returns the URL of the list of all keys with their numbers of peers. It has no user and no
// password. A native tracker has an index. A classic tracker has a scrape (BEP 48): the last element
// of the path begins with "scrape" in place of "announce". If it does not begin with "announce",
// IndexURL returns an error.
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
		return nil, fmt.Errorf("tracker %s: the URL of its list of keys is not known, because the last part of its path does not begin with announce", t)
	}
	u.Path, u.RawPath = u.Path[:last]+"scrape"+rest, ""
	return &u, nil
}
