//go:build linux

package interop_test

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

// haproxyDNS lets haproxy find its servers by SRV. A peer joins and gets requests. It is killed, and gets
// none as soon as haproxy has asked again. So does the one that stays.
func haproxyDNS(t *testing.T, bin string) {
	dns, port, dir := freePort(t), freePort(t), t.TempDir()
	tracker, kill := serveAt(t, bin, "127.0.0.1:0", "--dns", "127.0.0.1:"+dns, "--dns-zone", dnsZone)
	must(t, os.WriteFile(filepath.Join(dir, "haproxy.cfg"), fmt.Appendf(nil, `
global
    stats socket %s
defaults
    mode http
    timeout client 10s
    timeout server 10s
    timeout connect 1s

%s
frontend web
    bind 127.0.0.1:%s
    default_backend web
`, filepath.Join(dir, "stats"), strings.ReplaceAll(operatingBlock(t, "haproxy, by DNS", "haproxy"), "127.0.0.1:5300", "127.0.0.1:"+dns), port), 0o600))
	one, two := webServer(t, "one"), webServer(t, "two")
	proxy := start(t, dir, "haproxy", "-db", "-f", filepath.Join(dir, "haproxy.cfg"))
	answers := func(want ...string) { // each in turn, and no other
		t.Helper()
		eventually(t, func() error {
			var got []string
			for range 60 { // each of up to 30 servers twice
				text, err := textAt("http://127.0.0.1:" + port)
				if err != nil {
					return err
				}
				got = append(got, text)
			}
			slices.Sort(got)
			if got = slices.Compact(got); !slices.Equal(got, want) {
				return fmt.Errorf("%q answer, want %q", got, want)
			}
			return nil
		}, proxy)
	}
	answers("none")
	peer := func(port string) *program {
		return start(t, t.TempDir(), bin, "announce", "--stay", "--port", port, tracker, "web")
	}
	peer(one)
	for i := range 25 { // too many for a packet
		announceFrom(t, tracker, fmt.Sprintf("127.7.0.%d", 1+i), "web", one)
	}
	answers("one")
	eventually(t, func() error {
		text := haproxyCommand(t, filepath.Join(dir, "stats"), "show servers state web")
		if n := len(regexp.MustCompile(`(?m)^\d+ web \d+ \S+ 127\.\S+ 2 `).FindAllString(text, -1)); n != 26 {
			return fmt.Errorf("haproxy has %d servers, want 26:\n%s", n, text)
		}
		return nil
	}, proxy)
	began, second := time.Now(), peer(two)
	answers("one", "two")
	t.Logf("a join was seen after %v", time.Since(began))
	must(t, second.cmd.Process.Kill())
	began = time.Now()
	answers("one")
	t.Logf("a death was seen after %v", time.Since(began))

	// Without the tracker haproxy goes on with what it knows.
	sent := func() int {
		text := haproxyCommand(t, filepath.Join(dir, "stats"), "show resolvers tracker")
		m := regexp.MustCompile(`sent: +(\d+)`).FindStringSubmatch(text)
		if m == nil {
			t.Fatal(text)
		}
		n, err := strconv.Atoi(m[1])
		must(t, err)
		return n
	}
	kill()
	before := sent()
	eventually(t, func() error {
		if n := sent(); n < before+4 {
			return fmt.Errorf("haproxy has sent %d queries, want 4 that nobody answers", n-before)
		}
		return nil
	}, proxy)
	answers("one")
}

// haproxyCommand returns what haproxy replies to a command at its socket.
func haproxyCommand(t *testing.T, socket, command string) string {
	t.Helper()
	c, err := net.Dial("unix", socket)
	must(t, err)
	defer c.Close()
	_, err = io.WriteString(c, command+"\n")
	must(t, err)
	text, err := io.ReadAll(c)
	must(t, err)
	return string(text)
}

// webServer answers with text at any path and at any address of this machine, and returns its port.
func webServer(t *testing.T, text string) (port string) {
	t.Helper()
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, text) }))
	l, err := net.Listen("tcp4", ":0")
	must(t, err)
	_ = s.Listener.Close()
	s.Listener = l
	s.Start()
	t.Cleanup(s.Close)
	_, port, err = net.SplitHostPort(s.Listener.Addr().String())
	must(t, err)
	return port
}

// textAt returns the text at a URL, or "none" if there is no server behind a proxy.
func textAt(url string) (string, error) {
	reply, err := http.Get(url)
	if err != nil {
		return "", err
	}
	defer reply.Body.Close()
	text, err := io.ReadAll(reply.Body)
	switch {
	case err != nil:
		return "", err
	case reply.StatusCode == http.StatusServiceUnavailable:
		return "none", nil
	case reply.StatusCode != http.StatusOK:
		return "", errors.New(reply.Status)
	}
	return string(text), nil
}

// delegatedDNS has all of DNS in a network namespace, at its port 53: unbound knows the zone example.org,
// which delegates a part of it to the tracker. Prometheus asks unbound, for services and for addresses. A
// peer joins and is scraped; it is killed, and is no target any more.
func delegatedDNS(t *testing.T, bin string) {
	netns := namespace(t)
	hosts(t, netns, "127.0.0.1 localhost\n")
	must(t, os.WriteFile(filepath.Join("/etc/netns", netns, "resolv.conf"), []byte("nameserver 127.0.0.2\n"), 0o644))
	in := func(command ...string) []string { return append([]string{"netns", "exec", netns}, command...) }
	dir := t.TempDir()
	file := filepath.Join(dir, "addr")
	tracker := start(t, dir, "ip", in(bin, "serve", "--listen", "127.0.0.1:6969", "--admin", "127.0.0.1:9696", "--dns", "127.0.0.1:53", "--dns-zone", dnsZone, "--addr-file", file)...)
	must(t, os.WriteFile(filepath.Join(dir, "example.org.zone"), []byte(`$TTL 60
example.org. SOA ns.example.org. hostmaster.example.org. 1 60 60 60 60
example.org. NS ns.example.org.
ns.example.org. A 127.0.0.2
tracker.example.org. A 127.0.0.1
`+operatingBlock(t, "Delegate a zone", "zone")), 0o600))
	resolver := startUnbound(t, "127.0.0.2", fmt.Sprintf("auth-zone:\n\tname: example.org\n\tzonefile: %q\n\tfor-downstream: no\n\tfor-upstream: yes\n\tfallback-enabled: no\n",
		filepath.Join(dir, "example.org.zone")), "ip", "netns", "exec", netns)

	// The delegation works in every step, also with the smallest queries.
	asks := func(kind, name, status string, answer ...string) {
		t.Helper()
		eventually(t, func() error {
			r, err := kdigBy(t, "ip", in("kdig", "@127.0.0.2", name, kind)...)
			if err != nil {
				return err
			}
			for i, record := range r.answer {
				r.answer[i] = strings.Join(slices.Delete(strings.Fields(record), 1, 2), " ")
			}
			return r.has(status, answer...)
		}, tracker, resolver)
	}
	asks("NS", dnsZone, "NOERROR", dnsZone+" NS ns."+dnsZone)
	asks("A", "ns."+dnsZone, "NOERROR", "ns."+dnsZone+" A 127.0.0.1")
	asks("A", "none."+dnsZone, "NXDOMAIN")

	must(t, os.WriteFile(filepath.Join(dir, "prometheus.yml"), []byte(
		"global: {scrape_interval: 250ms, scrape_timeout: 250ms}\n"+
			strings.NewReplacer("30s", "250ms", "9100", "9696").Replace(operatingBlock(t, "Prometheus, by DNS", "yaml"))), 0o600))
	prometheus := start(t, dir, "ip", in("prometheus", "--config.file", filepath.Join(dir, "prometheus.yml"),
		"--storage.tsdb.path", filepath.Join(dir, "data"), "--web.listen-address", "127.0.0.1:9090")...)
	targets := func(want ...string) {
		t.Helper()
		eventually(t, func() error {
			stdout, stderr, _ := run(t, "ip", in("promtool", "query", "instant", "http://127.0.0.1:9090", "up")...)
			var got []string
			for line := range strings.Lines(stdout) {
				if line = strings.TrimSpace(strings.Split(line, "@")[0]); line != "" {
					got = append(got, line)
				}
			}
			slices.Sort(got)
			if !slices.Equal(got, want) {
				return fmt.Errorf("the targets are\n%q, want\n%q\n%s", got, want, stderr)
			}
			return nil
		}, tracker, resolver, prometheus)
	}
	targets()
	peer := start(t, dir, "ip", in(bin, "announce", "--stay", "--port", "9696", "metrics")...)
	began := time.Now()
	targets(`up{instance="127-0-0-1.ip.peers.example.org:9696", job="by service"} => 1`, `up{instance="127.0.0.1:9696", job="by address"} => 1`)
	t.Logf("a join was seen after %v", time.Since(began))
	must(t, peer.cmd.Process.Kill())
	began = time.Now()
	targets()
	t.Logf("a death was seen after %v", time.Since(began))
}
