package wire

import (
	"encoding/hex"
	"net/netip"
	"testing"
)

// The example of the proposal.
func TestIDOf(t *testing.T) {
	id := idOf(netip.MustParseAddrPort("123.45.67.89:1234"))
	if got := hex.EncodeToString(id[:]); got != "396747a010eff799e3a82ce1b351ac25bce23fce" {
		t.Errorf("idOf = %s", got)
	}
}

func TestScope(t *testing.T) {
	for a, want := range map[string]Scope{
		"127.0.0.1": ScopeLoopback, "127.255.255.254": ScopeLoopback, "::1": ScopeLoopback,
		"169.254.1.1": ScopeLinkLocal, "fe80::1": ScopeLinkLocal, "febf::1": ScopeLinkLocal,
		"10.0.0.1": ScopePrivate, "172.16.0.1": ScopePrivate, "172.31.255.255": ScopePrivate, "192.168.0.1": ScopePrivate,
		"100.64.0.1": ScopePrivate, "100.127.255.255": ScopePrivate, "fd00::1": ScopePrivate, "fc00::1": ScopePrivate,
		"172.32.0.1": ScopePublic, "100.63.0.1": ScopePublic, "100.128.0.1": ScopePublic, "8.8.8.8": ScopePublic,
		"2001:db8::1": ScopePublic, "2002::1": ScopePublic, "11.0.0.1": ScopePublic,
	} {
		if got := ScopeOf(netip.MustParseAddr(a)); got != want {
			t.Errorf("ScopeOf(%s) = %v, want %v", a, got, want)
		}
	}
	if !ScopeLoopback.Sees(ScopePublic) || !ScopePrivate.Sees(ScopePrivate) || ScopePublic.Sees(ScopePrivate) || ScopePrivate.Sees(ScopeLoopback) {
		t.Error("Sees: an asker gets its own scope and wider ones, and no narrower")
	}
}
