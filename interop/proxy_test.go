//go:build linux

package interop_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"
)

// haproxy forwards no half-close, and its requests do not show that a proxy sent them.
func haproxy(t *testing.T, bin string) {
	throughProxy(t, bin, func(t *testing.T, port, tracker string) *program {
		config := filepath.Join(t.TempDir(), "haproxy.cfg")
		must(t, os.WriteFile(config, fmt.Appendf(nil, `
defaults
	mode http
	option forwardfor
	timeout connect 10s
	timeout client 1m
	timeout server 1m
listen tracker
	bind 127.0.0.1:%s
	server tracker %s
`, port, tracker), 0o600))
		return start(t, t.TempDir(), "haproxy", "-db", "-f", config)
	})
}

// varnish, with its default settings, holds the beginning of a stream back for 15 s. At a half-close
// it closes the connection to the client, but keeps the one to the tracker.
func varnish(t *testing.T, bin string) {
	throughProxy(t, bin, func(t *testing.T, port, tracker string) *program {
		return start(t, t.TempDir(), "varnishd", "-F", "-j", "none", "-n", t.TempDir(), "-s", "malloc,16m",
			"-a", "127.0.0.1:"+port, "-b", tracker)
	})
}

// nginx, as docs/operating.md configures it. nginx speaks HTTP/1.0 to the tracker, and chunks a stream.
// Its own address is 127.0.0.2: without the header of the page, the tracker would list that.
func nginx(t *testing.T, bin string) {
	page, err := os.ReadFile("../docs/operating.md")
	must(t, err)
	location := regexp.MustCompile("(?ms)^```nginx\n(.*?)^```$").FindSubmatch(page)
	if location == nil {
		t.Fatal("docs/operating.md has no block of nginx")
	}
	throughProxy(t, bin, func(t *testing.T, port, tracker string) *program {
		dir := t.TempDir()
		config := filepath.Join(dir, "nginx.conf")
		must(t, os.WriteFile(config, fmt.Appendf(nil, `
daemon off;
master_process off;
pid nginx.pid;
error_log stderr;
events {}
http {
access_log off;
proxy_bind 127.0.0.2;
client_body_temp_path body;
proxy_temp_path proxy;
fastcgi_temp_path fastcgi;
uwsgi_temp_path uwsgi;
scgi_temp_path scgi;
server {
listen 127.0.0.1:%s;
%s
}
}
`, port, strings.Replace(string(location[1]), "127.0.0.1:6969", tracker, 1)), 0o600))
		return start(t, dir, "nginx", "-p", dir, "-c", config)
	})
}

// throughProxy has members join through a proxy and leave in every way. None of them may be listed
// after it has ended.
func throughProxy(t *testing.T, bin string, run func(t *testing.T, port, tracker string) *program) {
	tracker, port := serve(t, bin, "--proxy", "127.0.0.0/8"), freePort(t)
	through := "127.0.0.1:" + port
	proxy := run(t, port, tracker)
	eventually(t, func() error { return prints(t, nil, bin, "list", through, "hk", "-q") }, proxy)
	stay := []string{"announce", through, "hk", "--port", "4555", "--stay"}
	for _, way := range []struct {
		name   string
		args   []string
		joined bool // end it only after it has printed that it has joined, not as soon as it is listed
		signal syscall.Signal
		code   int
	}{
		{"announce --stay", stay, false, syscall.SIGINT, 130},
		{"announce --stay, joined", stay, true, syscall.SIGINT, 130},
		{"announce --stay, TERM", stay, false, syscall.SIGTERM, 143},
		{"watch --port", []string{"watch", through, "hk", "--port", "4555"}, false, syscall.SIGINT, 130},
		{"watch --min", []string{"watch", through, "hk", "--port", "4555", "--min", "9"}, false, syscall.SIGINT, 130},
	} {
		t.Run(way.name, func(t *testing.T) {
			p := start(t, t.TempDir(), bin, way.args...)
			eventually(t, func() error {
				if way.joined && p.output(t, "stdout") == "" {
					return errors.New("it has not joined")
				}
				return prints(t, endpoints("4555"), bin, "list", tracker, "hk", "-q")
			}, proxy, p)
			must(t, p.cmd.Process.Signal(way.signal))
			select {
			case <-p.done:
			case <-time.After(patience):
				t.Fatalf("has not ended after %v", patience)
			}
			if code := p.cmd.ProcessState.ExitCode(); code != way.code {
				t.Errorf("exit code %d, want %d", code, way.code)
			}
			if notes := p.output(t, "stderr"); strings.Contains(notes, "could not") || strings.Contains(notes, "unreachable") {
				t.Errorf("%s", notes)
			}
			expect(t, nil, bin, "list", tracker, "hk", "-q")
		})
	}
}
