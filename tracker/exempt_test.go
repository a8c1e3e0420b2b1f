package tracker_test

import (
	"net/netip"
	"testing"

	"ntrack/tracker"
)

// Only the networks of Exempt have no limits by address. Without them, these are the loopback
// addresses.
func TestExempts(t *testing.T) {
	networks := func(list ...string) []netip.Prefix {
		prefixes := make([]netip.Prefix, len(list))
		for i, p := range list {
			prefixes[i] = netip.MustParsePrefix(p)
		}
		return prefixes
	}
	for _, tt := range []struct {
		name   string
		exempt []netip.Prefix
		addr   string
		want   bool
	}{
		{"default", nil, "127.0.0.1", true},
		{"default", nil, "127.9.9.9", true},
		{"default", nil, "::1", true},
		{"default", nil, "::ffff:127.0.0.1", true},
		{"default", nil, "192.0.2.1", false},
		{"default", nil, "::2", false},
		{"nobody", networks(), "127.0.0.1", false},
		{"nobody", networks(), "::1", false},
		{"a network", networks("192.0.2.0/24"), "192.0.2.1", true},
		{"a network", networks("192.0.2.0/24"), "::ffff:192.0.2.1", true},
		{"a network", networks("192.0.2.0/24"), "192.0.3.1", false},
		{"instead of the default", networks("192.0.2.0/24"), "127.0.0.1", false},
		{"the last of two", networks("192.0.2.0/24", "2001:db8::/32"), "2001:db8::1", true},
		{"mapped into IPv6", networks("::ffff:192.0.2.0/120"), "192.0.2.1", true},
		{"a zone", networks("fe80::/10"), "fe80::1%eth0", true},
	} {
		tr := &tracker.Tracker{Exempt: tt.exempt}
		if got := tr.Exempts(netip.MustParseAddr(tt.addr)); got != tt.want {
			t.Errorf("%s: Exempts(%s) = %v", tt.name, tt.addr, got)
		}
	}
	if tr := (&tracker.Tracker{Exempt: networks()}); !tr.Exempts(netip.Addr{}) {
		t.Error("a Unix socket is not exempt")
	}
}
