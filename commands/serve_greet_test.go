package commands

import (
	"bytes"
	"net/netip"
	"strings"
	"testing"

	"ntrack/tracker"
	"ntrack/tracker/page"
	"ntrack/tracker/server"
)

// The first lines of serve have everything that is open, and who can reach it.
func TestGreet(t *testing.T) {
	plain := func(option, address string) endpoint {
		return endpoint{kind: plainEndpoint, option: option, address: address}
	}
	proxies := []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("fd00::/8")}
	for _, c := range []struct {
		o         *serveOptions
		endpoints []endpoint
		want      string
	}{
		{&serveOptions{}, []endpoint{plain("127.0.0.1:6969", "127.0.0.1:6969")}, `
ntrack: tracker at http://127.0.0.1:6969/ntrk/, in memory; Ctrl-C ends it
ntrack: try: ntrack announce lobby --port 4000
ntrack:      ntrack list lobby
`},
		{&serveOptions{tokenFile: "secret", tracker: tracker.Tracker{Index: true}}, []endpoint{plain("127.0.0.1:0", "127.0.0.1:40001"), plain("[::1]:0", "[::1]:40002")}, `
ntrack: tracker at http://127.0.0.1:40001/ntrk/, in memory; Ctrl-C ends it
ntrack: tracker at http://[::1]:40002/ntrk/, in memory; Ctrl-C ends it
ntrack: try: ntrack announce localhost:40001 --token-file secret lobby --port 4000
ntrack:      ntrack list localhost:40001 --token-file secret lobby
`},
		{&serveOptions{tracker: tracker.Tracker{Page: page.Files(), PageLocal: true}}, []endpoint{plain(":6969", "[::]:6969")}, `
ntrack: open: http :6969 to everybody; token none; index off
ntrack: try: ntrack announce lobby --port 4000
ntrack:      ntrack list lobby
`},
		{&serveOptions{}, []endpoint{plain("0.0.0.0:6969", "0.0.0.0:6969"), plain("[::]:7000", "[::]:7000"), plain("localhost:80", "127.0.0.1:80"),
			plain("192.168.1.7:80", "192.168.1.7:80"), plain("[fe80::1%eth0]:80", "[fe80::1%eth0]:80"), plain("tracker.example:80", "192.0.2.1:80")}, `
ntrack: open: http 0.0.0.0:6969 to everybody; http [::]:7000 to everybody; http 127.0.0.1:80 to this machine; http 192.168.1.7:80 to its network; http [fe80::1%eth0]:80 to its network; http 192.0.2.1:80 to everybody; token none; index off
ntrack: try: ntrack announce lobby --port 4000
ntrack:      ntrack list lobby
`},
		{&serveOptions{tokenFile: "-", tracker: tracker.Tracker{Index: true, Page: page.Files(), Proxies: proxies}}, []endpoint{
			{kind: "tls", option: ":443", address: "[::]:443"},
			{kind: plainEndpoint, option: "unix:/run/ntrack.sock", address: "unix:/run/ntrack.sock"},
			{kind: "admin", option: "127.0.0.1:9090", address: "127.0.0.1:9090"},
			{kind: "admin", option: "[::1]:9090", address: "[::1]:9090", audience: "root"},
		}, `
ntrack: open: https :443 to everybody; http unix:/run/ntrack.sock to this machine; admin 127.0.0.1:9090 to this machine; admin [::1]:9090 to root; token needed; index on; page on; proxies 10.0.0.0/8,fd00::/8
`},
		{&serveOptions{tracker: tracker.Tracker{Proxies: proxies[:1]}, server: server.Server{ProxyProtocol: true}}, []endpoint{plain("127.0.0.1:6969", "127.0.0.1:6969")}, `
ntrack: open: http 127.0.0.1:6969 to this machine; token none; index off; proxies 10.0.0.0/8 by the PROXY protocol
ntrack: try: ntrack announce lobby --port 4000
ntrack:      ntrack list lobby
`},
		{&serveOptions{denyFile: "deny"}, []endpoint{plain("127.0.0.1:6969", "127.0.0.1:6969")}, `
ntrack: open: http 127.0.0.1:6969 to this machine; token none; index off; denied keys 0, networks 0
ntrack: try: ntrack announce lobby --port 4000
ntrack:      ntrack list lobby
`},
	} {
		var printed bytes.Buffer
		c.o.greet(Streams{Err: &printed}, c.endpoints)
		if want := strings.TrimPrefix(c.want, "\n"); printed.String() != want {
			t.Errorf("%+v: serve prints\n%swant\n%s", c.endpoints, printed.String(), want)
		}
	}
}
