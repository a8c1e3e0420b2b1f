//go:build unix

package commands_test

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// resolver asks the server of names at an address.
func resolver(at string) *net.Resolver {
	return &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, network, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, network, at)
	}}
}

// `serve --dns` answers the resolver of Go, at each address and with the names of its zone.
func TestServeDNS(t *testing.T) {
	t.Parallel()
	x := newTrial(t)
	x.start("serve --listen 127.0.0.1:0 --dns 127.0.0.1:0 --dns 127.0.0.1:0 --dns-zone Peers.Example. --admin 127.0.0.1:0")
	for port := 1; port <= 40; port++ { // too many for a packet
		get(t, fmt.Sprintf("http://%s/ntrk/lobby?port=%d", x.addrs()[0], port), "")
	}
	at := regexp.MustCompile(`; dns (127\.0\.0\.1:\d+) to this machine`).FindAllStringSubmatch(x.output(), -1)
	if len(at) != 2 || !strings.Contains(x.output(), "; dns-zone peers.example; ") {
		t.Fatalf("serve prints\n%s", x.output())
	}
	for _, m := range at {
		r := resolver(m[1])
		addrs, err := r.LookupNetIP(t.Context(), "ip", "lobby.peers.example")
		if err != nil || !slices.Equal(addrs, []netip.Addr{netip.MustParseAddr("127.0.0.1")}) {
			t.Errorf("%v, %v", addrs, err)
		}
		name, services, err := r.LookupSRV(t.Context(), "http", "tcp", "lobby.peers.example")
		ports := make(map[uint16]bool)
		for _, s := range services {
			ports[s.Port] = s.Target == "127-0-0-1.ip.peers.example."
		}
		if err != nil || name != "_http._tcp.lobby.peers.example." || len(ports) != 40 || !ports[1] || !ports[40] {
			t.Errorf("%s: %v, %v", name, services, err)
		}
		addrs, err = r.LookupNetIP(t.Context(), "ip", "127-0-0-1.ip.peers.example")
		if err != nil || len(addrs) != 1 || !addrs[0].IsLoopback() {
			t.Errorf("%v, %v", addrs, err)
		}
		if _, err := r.LookupNetIP(t.Context(), "ip", "nobody.peers.example"); err == nil || !strings.Contains(err.Error(), "no such host") {
			t.Errorf("a key without peers: %v", err)
		}
	}
	admin := regexp.MustCompile(`; admin (127\.0\.0\.1:\d+) `).FindStringSubmatch(x.output())[1]
	_, metrics := get(t, "http://"+admin+"/metrics", "")
	for _, result := range []string{"answered", "truncated", "nodata", "nxdomain"} {
		if !regexp.MustCompile(`(?m)^ntrack_dns_queries_total\{result="` + result + `"\} [1-9]`).MatchString(metrics) {
			t.Errorf("the metrics count no %s", result)
		}
	}
}

// Without --dns nothing answers, and what cannot be served is refused.
func TestServeDNSRefused(t *testing.T) {
	t.Parallel()
	taken, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	for line, want := range map[string]string{
		"--dns 127.0.0.1:0 --dns-zone peers.example --token-file token":     `^exit code 2\nntrack: --dns and --token-file exclude each other: `,
		"--dns " + taken.LocalAddr().String() + " --dns-zone peers.example": `^exit code 1\nntrack: --dns 127\.0\.0\.1:\d+: another program has this port, such as a resolver; name one address`,
	} {
		x := newTrial(t)
		x.start("serve --listen 127.0.0.1:0 " + line)
		if got := fmt.Sprintf("exit code %d\n", x.wait()) + x.output(); !regexp.MustCompile(want).MatchString(got) {
			t.Errorf("%s: %s\nwant %s", line, got, want)
		}
	}
}

// Neither the log nor the metrics have a name that was asked for, or the address of an asker, whatever the
// query is.
func TestDNSPrivacy(t *testing.T) {
	t.Parallel()
	x := newTrial(t)
	x.start("serve --listen 127.0.0.1:0 --dns 127.0.0.1:0 --dns-zone peers.example --admin 127.0.0.1:0 --log-level debug --exempt none")
	get(t, fmt.Sprintf("http://%s/ntrk/private-key?port=4000", x.addrs()[0]), "")
	at := regexp.MustCompile(`; dns (127\.0\.0\.1:\d+) to`).FindStringSubmatch(x.output())[1]
	for _, network := range []string{"udp", "tcp"} {
		r := resolver(at)
		r.Dial = func(ctx context.Context, _, _ string) (net.Conn, error) {
			return (&net.Dialer{LocalAddr: map[string]net.Addr{"udp": &net.UDPAddr{IP: net.IPv4(127, 0, 45, 67)}, "tcp": &net.TCPAddr{IP: net.IPv4(127, 0, 45, 67)}}[network]}).DialContext(ctx, network, at)
		}
		if addrs, err := r.LookupNetIP(t.Context(), "ip4", "private-key.peers.example"); err != nil || len(addrs) != 1 {
			t.Errorf("over %s: %v, %v", network, addrs, err)
		}
		for _, name := range []string{"private-none.peers.example", "private.example.com", "private_odd.peers.example"} {
			if _, err := r.LookupNetIP(t.Context(), "ip4", name); err == nil {
				t.Errorf("%s has an address", name)
			}
		}
		c, err := r.Dial(t.Context(), network, at)
		if err != nil {
			t.Fatal(err)
		}
		const query = "\x00\x07\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\x0bprivate-key\x05peers\x07example\x00\x00\x01\x00\x01"
		for i := range 2000 { // more than an address may ask, and every second one is cut
			b := query[:len(query)-i%2]
			if network == "tcp" {
				b = string([]byte{0, byte(len(b))}) + b
			}
			_, _ = c.Write([]byte(b))
		}
		_ = c.Close()
	}
	admin := regexp.MustCompile(`; admin (127\.0\.0\.1:\d+) `).FindStringSubmatch(x.output())[1]
	_, metrics := get(t, "http://"+admin+"/metrics", "")
	for where, text := range map[string]string{"the log": x.output(), "the metrics": metrics} {
		if strings.Contains(text, "private") || strings.Contains(text, "127.0.45.67") {
			t.Errorf("%s: %s", where, text)
		}
	}
	if !regexp.MustCompile(`(?m)^ntrack_dns_queries_total\{result="malformed"\} [1-9]`).MatchString(metrics) {
		t.Error("the metrics count nothing malformed")
	}
}
