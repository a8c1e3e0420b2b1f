package tracker_test

import (
	"fmt"
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	"ntrack/tracker"
)

// A tracker reports once that a private address seems to be a proxy that it does not know: if the
// address sends X-Forwarded-For, or announces many keys within an hour.
func TestUnnamedProxy(t *testing.T) {
	for _, tt := range []struct {
		name, remote, forwarded string
		unix                    bool
		proxies                 string
		keys, addrs             int
		pause                   time.Duration
		want                    int
	}{
		{name: "X-Forwarded-For", remote: "10.0.0.1:1", forwarded: "192.0.2.1", keys: 3, want: 1},
		{name: "X-Forwarded-For on loopback", remote: "[::1]:1", forwarded: "192.0.2.1", keys: 3, want: 1},
		{name: "X-Forwarded-For of a client", remote: "192.0.2.7:1", forwarded: "192.0.2.1", keys: 3},
		{name: "X-Forwarded-For of a named proxy", remote: "10.0.0.1:1", forwarded: "192.0.2.1", proxies: "10.0.0.0/8", keys: 3},
		{name: "X-Forwarded-For of another proxy", remote: "10.0.0.1:1", forwarded: "192.0.2.1", proxies: "192.168.0.0/16", keys: 3},
		{name: "Unix socket", unix: true, forwarded: "10.0.0.1", keys: 2000},
		{name: "many keys", remote: "[fd00::1]:1", keys: 2000, want: 1},
		{name: "many keys, IPv4 in IPv6", remote: "[::ffff:10.0.0.1]:1", keys: 2000, want: 1},
		{name: "many keys of a public address", remote: "192.0.2.7:1", keys: 2000},
		{name: "some keys", remote: "127.0.0.1:1", keys: 800},
		{name: "many keys of many addresses", remote: "10.0.0.1:1", keys: 6000, addrs: 100},
		{name: "many keys over a day", remote: "10.0.0.1:1", keys: 2000, pause: 43 * time.Second / 4 * 3},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				tr := &tracker.Tracker{}
				if tt.proxies != "" {
					tr.Proxies = append(tr.Proxies, netip.MustParsePrefix(tt.proxies))
				}
				remote, _ := netip.ParseAddrPort(tt.remote)
				got := 0
				for i := range tt.keys {
					call := tracker.Call{Method: "GET", Target: fmt.Appendf(nil, "/ntrk/k%d?port=1", i), Remote: remote, Unix: tt.unix, ForwardedFor: []byte(tt.forwarded)}
					if tt.addrs > 0 {
						a := remote.Addr().As4()
						a[3] = byte(i % tt.addrs)
						call.Remote = netip.AddrPortFrom(netip.AddrFrom4(a), 1)
					}
					resp, body := tr.Answer(t.Context(), &call, nil)
					if resp.Status != 200 {
						t.Fatalf("%d %s", resp.Status, body)
					}
					if resp.UnnamedProxy {
						got++
					}
					time.Sleep(tt.pause)
				}
				time.Sleep(2 * time.Hour) // until the store has no peers and no goroutine
				if got != tt.want {
					t.Errorf("reported %d times, want %d", got, tt.want)
				}
			})
		})
	}
}
