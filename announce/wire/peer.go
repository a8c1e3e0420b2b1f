package wire

import (
	"crypto/sha1"
	"net/netip"
)

// A Peer is a peer of a track as its tracker stores it. The endpoint identifies the peer.
type Peer struct {
	Endpoint netip.AddrPort
	// ID is the peer id that the peer has sent, or zero if it has sent none.
	ID ID
}

// An ID is a peer id: 20 bytes that a peer chooses as its label. The zero ID means that it has none.
type ID [sha1.Size]byte

// idOf returns the peer id of a peer that has sent none: the SHA-1 of its endpoint as text, with an
// IPv6 address in brackets. docs/PROTOCOL.md has the rule and an example.
func idOf(endpoint netip.AddrPort) ID {
	var text [64]byte
	return sha1.Sum(endpoint.AppendTo(text[:0]))
}

// Canonical returns the endpoint in the form in which endpoints are compared and stored. An IPv4
// address in IPv6 form (::ffff:192.0.2.1) becomes IPv4. The zone is dropped, because it has no meaning
// on another machine.
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
	ScopePublic                 // every other address
)

// NumScopes is the number of scopes.
const NumScopes = 4

func (s Scope) String() string {
	return [NumScopes]string{"loopback", "link-local", "private", "public"}[s]
}

// ScopeOf returns the scope of a canonical address.
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

// Sees reports whether a client with an address of scope s gets peers of scope p. It gets those of its
// own scope and of wider ones. An address of a narrower scope may be another machine in its network.
func (s Scope) Sees(p Scope) bool { return s <= p }
