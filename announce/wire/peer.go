package wire

import (
	"crypto/sha1"
	"net/netip"
)

// A Peer is one endpoint, IP:PORT. The endpoint is its identity inside a track.
type Peer struct {
	Endpoint netip.AddrPort
	// ID is the label the peer gave itself, zero when it gave none.
	ID ID
}

// An ID is a peer id: 20 bytes that label a peer. The zero ID is none.
type ID [sha1.Size]byte

// IDOf is the peer id of a peer that gave none: the SHA-1 of the text IP:PORT, an IPv6 address in
// brackets. It is the proposal's rule, and 123.45.67.89:1234 its example.
func IDOf(endpoint netip.AddrPort) ID {
	var text [64]byte
	return sha1.Sum(endpoint.AppendTo(text[:0]))
}

// Canonical is the endpoint in the one form that is compared and stored: an IPv4 address mapped
// into IPv6 becomes IPv4 and a zone, which means nothing on another machine, is dropped.
func Canonical(endpoint netip.AddrPort) netip.AddrPort {
	return netip.AddrPortFrom(endpoint.Addr().Unmap().WithZone(""), endpoint.Port())
}

// A Scope is how far an address reaches. The zero Scope is the narrowest.
type Scope uint8

// The scopes, from narrow to wide.
const (
	ScopeLoopback  Scope = iota // 127.0.0.0/8, ::1
	ScopeLinkLocal              // 169.254.0.0/16, fe80::/10
	ScopePrivate                // RFC 1918, RFC 6598 (shared address space), RFC 4193 (unique local)
	ScopePublic                 // every other
)

// NumScopes is how many scopes there are.
const NumScopes = 4

func (s Scope) String() string {
	return [NumScopes]string{"loopback", "link-local", "private", "public"}[s]
}

// ScopeOf is the scope of a canonical address.
func ScopeOf(a netip.Addr) Scope {
	switch {
	case a.IsLoopback():
		return ScopeLoopback
	case a.IsLinkLocalUnicast():
		return ScopeLinkLocal
	case a.IsPrivate() || a.Is4() && a.As4()[0] == 100 && a.As4()[1]&0xc0 == 64:
		return ScopePrivate
	}
	return ScopePublic
}

// Sees says whether an asker of scope s is given a peer of scope p: one of its own scope or a
// wider one, so that nobody is told an address that means another machine to him.
func (s Scope) Sees(p Scope) bool { return s <= p }
