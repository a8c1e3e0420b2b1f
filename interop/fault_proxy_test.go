//go:build linux

package interop_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// haproxyKilled kills haproxy, in both of its modes.
func haproxyKilled(t *testing.T, bin string) {
	for name, mode := range map[string]string{
		"HTTP":               "mode http\n\toption forwardfor\n\tserver ntrack %s source 127.0.0.2",
		"the PROXY protocol": "mode tcp\n\tserver ntrack %s source 127.0.0.2 send-proxy-v2",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			proxyKilled(t, bin, strings.Contains(mode, "send-proxy"), func(through, tracker string) *program {
				dir := t.TempDir()
				must(t, os.WriteFile(filepath.Join(dir, "haproxy.cfg"), fmt.Appendf(nil, `
defaults
	timeout connect 5s
	timeout client 1m
	timeout server 1m
listen tracker
	bind %s
	%s
`, through, fmt.Sprintf(mode, tracker)), 0o600))
				return start(t, dir, "haproxy", "-db", "-f", "haproxy.cfg")
			})
		})
	}
}

// nginxKilled kills nginx, in both of its modes.
func nginxKilled(t *testing.T, bin string) {
	for name, block := range map[string]string{
		"HTTP": `http {
	access_log off;
	client_body_temp_path body;
	proxy_temp_path proxy;
	fastcgi_temp_path fastcgi;
	uwsgi_temp_path uwsgi;
	scgi_temp_path scgi;
	server {
		listen %s;
		location / {
			proxy_pass http://%s;
			proxy_bind 127.0.0.2;
			proxy_http_version 1.1;
			proxy_set_header Connection "";
			proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;
		}
	}
}
`,
		"the PROXY protocol": `stream {
	server {
		listen %s;
		proxy_pass %s;
		proxy_bind 127.0.0.2;
		proxy_protocol on;
	}
}
`,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			proxyKilled(t, bin, strings.HasPrefix(block, "stream"), func(through, tracker string) *program {
				return startNginx(t, t.TempDir(), fmt.Sprintf(block, through, tracker))
			})
		})
	}
}

// proxyKilled kills a proxy at 127.0.0.2 with kill -9, and starts it again. A member that polls keeps its
// place for its ttl, so nobody sees it leave. A member with an event stream is listed as long as its
// connection lives, which ends at the proxy. So it leaves, and is back soon after the proxy.
func proxyKilled(t *testing.T, bin string, protocol bool, startProxy func(through, tracker string) *program) {
	options := []string{"--proxy", "127.0.0.2", "--interval", "10s"}
	if protocol {
		options = append(options, "--proxy-protocol")
	}
	const key = "urn:btih:0123456789abcdef0123456789abcdef01234567" // one track for both kinds of members
	direct := serve(t, bin, options...)
	through := "127.0.0.1:" + freePort(t)
	proxy := startProxy(through, direct)
	eventually(t, func() error { return prints(t, nil, bin, "list", through, key, "-q") }, proxy)
	watcher := start(t, t.TempDir(), bin, "watch", direct, key, "-q")
	start(t, t.TempDir(), bin, "announce", "http://"+through+"/announce", key, "--port", "4001", "--stay")
	watcher.prints(t, "join 127.0.0.1:4001\n")
	start(t, t.TempDir(), bin, "announce", through, key, "--port", "4000", "--stay")
	said := "join 127.0.0.1:4001\njoin 127.0.0.1:4000\n"
	watcher.prints(t, said)
	for range 2 {
		must(t, proxy.cmd.Process.Kill())
		<-proxy.done
		said += "leave 127.0.0.1:4000\n"
		watcher.prints(t, said)
		proxy = startProxy(through, direct)
		began := time.Now()
		said += "join 127.0.0.1:4000\n"
		watcher.prints(t, said)
		t.Logf("the member with a stream was back %v after the proxy", time.Since(began))
	}
	time.Sleep(26 * time.Second) // the ttl, after which the poller would lapse
	watcher.prints(t, said)
}
