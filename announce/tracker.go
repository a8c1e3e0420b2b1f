package announce

import (
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
// localhost:6969.
func ParseTracker(s string) (Tracker, error) {
	if s == "" {
		return Tracker{}, nil
	}
	bad := func(why string) (Tracker, error) {
		if i, at := strings.Index(s, "://"), strings.LastIndexByte(s, '@'); i >= 0 && at > i {
			s = s[:i+3] + "..." + s[at:] // no password in an error
		}
		return Tracker{}, fmt.Errorf("tracker %s: %s", quote(s), why)
	}
	raw := s
	if a, err := netip.ParseAddr(s); err == nil && a.Is6() {
		raw = "[" + s + "]"
	}
	if !strings.Contains(raw, "://") {
		raw = "http://" + raw
	}
	u, err := url.Parse(raw)
	if err != nil {
		// Only the cause: the wrapper repeats the URL, and a password in it.
		var cause *url.Error
		if errors.As(err, &cause) {
			err = cause.Err
		}
		return Tracker{}, fmt.Errorf("tracker: %w; name it host, host:port or http(s)://host[:port]/", err)
	}
	switch u.Scheme {
	case "http", "https":
	case "udp":
		return bad("the UDP tracker protocol is not spoken here; most such trackers have an http(s) URL too")
	default:
		return bad("scheme " + quote(u.Scheme) + " is not http or https")
	}
	if u.Hostname() == "" {
		return bad("names no host")
	}
	if strings.ContainsAny(u.Hostname(), " /\\\"<>") {
		return bad("is no host name")
	}
	switch p := u.Port(); {
	case p == "" && strings.HasSuffix(u.Host, ":"):
		return bad("the port after the colon is missing")
	case p == "":
		u.Host = net.JoinHostPort(u.Hostname(), strconv.Itoa(defaultPort(u)))
	default:
		if n, err := strconv.ParseUint(p, 10, 16); err != nil || n == 0 {
			return bad("port " + quote(p) + " is not 1 to 65535")
		}
	}
	u.Host = strings.ToLower(u.Host)
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

func defaultPort(u *url.URL) int {
	switch {
	case u.Scheme == "https":
		return 443
	case isLoopbackName(u.Hostname()):
		return LocalPort
	}
	return 80
}

func isLoopbackName(host string) bool {
	a, err := netip.ParseAddr(host)
	host = strings.ToLower(strings.TrimSuffix(host, "."))
	return host == "localhost" || strings.HasSuffix(host, ".localhost") || err == nil && a.Unmap().IsLoopback()
}

// Loopback says that the tracker's name means this machine, whatever machine that is.
func (t Tracker) Loopback() bool {
	u := t.norm().url
	return isLoopbackName(u.Hostname())
}

func (t Tracker) norm() Tracker {
	if t.url.Host == "" {
		t.url = url.URL{Scheme: "http", Host: fmt.Sprint("localhost:", LocalPort), Path: "/ntrk/"}
	}
	return t
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

// scrape is where a classic tracker is scraped: "announce" at the start of the last path element
// becomes "scrape" (BEP 48). A URL without it has no scrape.
func (t Tracker) scrape() (url.URL, error) {
	u := t.url
	dir, last := u.Path[:strings.LastIndexByte(u.Path, '/')+1], u.Path[strings.LastIndexByte(u.Path, '/')+1:]
	rest, ok := strings.CutPrefix(last, "announce")
	if !ok {
		return u, fmt.Errorf("tracker %s: has no scrape, its path does not end in /announce", t)
	}
	u.Path, u.RawPath = dir+"scrape"+rest, ""
	return u, nil
}
