package dns

import (
	"bytes"
	"fmt"
	"net/netip"
	"strings"
)

// maxZone is the most bytes of a zone. With it one SRV record has room in the smallest packet, with a
// question of any length.
const maxZone = 128

// ParseZone returns a zone in lower case and without the dot at its end. A zone is a host name of up to
// 128 bytes, such as peers.example.org. The error says what is allowed.
func ParseZone(s string) (string, error) {
	zone := strings.Map(func(r rune) rune { // strings.ToLower makes a k of the Kelvin sign
		if 'A' <= r && r <= 'Z' {
			r += 'a' - 'A'
		}
		return r
	}, strings.TrimSuffix(s, "."))
	for label := range strings.SplitSeq(zone, ".") {
		if !isHostLabel([]byte(label)) || len(zone) > maxZone {
			return "", fmt.Errorf("a domain of letters, digits and hyphens, such as peers.example.org, of at most %d bytes", maxZone)
		}
	}
	return zone, nil
}

// isHostLabel says whether b is one label of a host name, in lower case.
func isHostLabel(b []byte) bool {
	for _, c := range b {
		if (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '-' {
			return false
		}
	}
	return len(b) > 0 && len(b) < 64 && b[0] != '-' && b[len(b)-1] != '-'
}

// A kind is what a name stands for.
type kind uint8

const (
	kindNone kind = iota // does not exist
	kindApex
	kindServer  // ns
	kindEmpty   // ip: other names exist below it
	kindAddress // of an address below ip
	kindKey
	kindProtocol // _PROTO.KEY: it has no records, but names below it have
	kindService
)

// The labels that are no keys.
const (
	serverLabel  = "ns"
	addressLabel = "ip"
)

// kindOf says what a name stands for. name is the part of it before the zone, in lower case, and ends
// with a dot unless it is empty.
func kindOf(name []byte) (k kind, key []byte, a netip.Addr) {
	if len(name) == 0 {
		return kindApex, nil, a
	}
	name = name[:len(name)-1]
	i := bytes.LastIndexByte(name, '.')
	last, rest := name[i+1:], name[:max(i, 0)]
	switch {
	case string(last) == serverLabel && i < 0:
		return kindServer, nil, a
	case string(last) == addressLabel && i < 0:
		return kindEmpty, nil, a
	case string(last) == addressLabel:
		if a, ok := parseAddressLabel(rest); ok {
			return kindAddress, nil, a
		}
		return kindNone, nil, a
	case string(last) == serverLabel, !isHostLabel(last):
		return kindNone, nil, a
	case i < 0:
		return kindKey, last, a
	}
	j := bytes.LastIndexByte(rest, '.')
	protocol, service := rest[j+1:], rest[:max(j, 0)]
	switch {
	case !isServiceLabel(protocol):
	case j < 0:
		return kindProtocol, last, a
	case isServiceLabel(service) && bytes.IndexByte(service, '.') < 0:
		return kindService, last, a
	}
	return kindNone, nil, a
}

// isServiceLabel says whether b is a label of RFC 2782: an underscore and a name.
func isServiceLabel(b []byte) bool { return len(b) > 1 && b[0] == '_' && isHostLabel(b[1:]) }

// appendAddressLabel appends the label of a canonical address: its text with hyphens in place of dots
// and colons. A host name has no hyphen at its ends, so ::1 is 0--1.
func appendAddressLabel(dst []byte, a netip.Addr) []byte {
	n := len(dst)
	if dst = a.AppendTo(dst); dst[n] == ':' {
		dst = append(dst[:n], '0')
		dst = a.AppendTo(dst)
	}
	if dst[len(dst)-1] == ':' {
		dst = append(dst, '0')
	}
	for i := n; i < len(dst); i++ {
		if dst[i] == '.' || dst[i] == ':' {
			dst[i] = '-'
		}
	}
	return dst
}

// parseAddressLabel reads what appendAddressLabel writes. Other texts of the address are accepted too.
func parseAddressLabel(label []byte) (netip.Addr, bool) {
	var text [64]byte
	if len(label) > len(text) || !isHostLabel(label) {
		return netip.Addr{}, false
	}
	for _, separator := range []byte{'.', ':'} {
		for i, c := range label {
			if c == '-' {
				c = separator
			}
			text[i] = c
		}
		if a, err := netip.ParseAddr(string(text[:len(label)])); err == nil {
			return a.Unmap(), true
		}
	}
	return netip.Addr{}, false
}
