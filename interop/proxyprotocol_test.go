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

// A proxy at 127.0.0.2 forwards the bytes of its clients with the PROXY protocol. The clients are at
// 127.0.0.1, and so is whoever looks at the tracker without the proxy. So a header that the tracker
// misses would list 127.0.0.2, and a header that it expects of others would end their connections.

// haproxyProtocol has haproxy send both versions, to TCP and to a Unix socket. haproxy also checks
// in three ways whether the tracker is alive.
func haproxyProtocol(t *testing.T, bin string) {
	for _, tt := range []struct {
		name, mode, server string
		unix               bool
		gone               time.Duration
	}{
		{"version 1", "mode tcp", "source 127.0.0.2 send-proxy check inter 200ms", false, atOnce},
		{"version 2", "mode tcp", "source 127.0.0.2 send-proxy-v2 check inter 200ms check-send-proxy", false, atOnce},
		{"version 2, HTTP", "mode http\n\toption httpchk GET /ntrk/health", "source 127.0.0.2 send-proxy-v2 check inter 200ms", false, patience},
		{"Unix socket", "mode tcp", "send-proxy-v2 check inter 200ms", true, atOnce},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			protocol(t, bin, tt.unix, tt.gone, func(through, tracker string) *program {
				config := filepath.Join(t.TempDir(), "haproxy.cfg")
				if tt.unix {
					tracker = "unix@" + tracker
				}
				must(t, os.WriteFile(config, fmt.Appendf(nil, `
defaults
	timeout connect 5s
	timeout client 1m
	timeout server 1m
listen tracker
	%s
	bind %s
	server ntrack %s %s
`, tt.mode, through, tracker, tt.server), 0o600))
				return start(t, t.TempDir(), "haproxy", "-db", "-f", config)
			})
		})
	}
}

// nginxProtocol has the stream module of nginx send version 1, the only one that it has.
func nginxProtocol(t *testing.T, bin string) {
	for name, unix := range map[string]bool{"TCP": false, "Unix socket": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			protocol(t, bin, unix, atOnce, func(through, tracker string) *program {
				bind := "proxy_bind 127.0.0.2;"
				if unix {
					bind, tracker = "", "unix:"+tracker
				}
				dir := t.TempDir()
				must(t, os.WriteFile(filepath.Join(dir, "nginx.conf"), fmt.Appendf(nil, `
load_module %s;
daemon off;
master_process off;
pid nginx.pid;
error_log stderr;
events {}
stream {
	server {
		listen %s;
		proxy_pass %s;
		%s
		proxy_protocol on;
	}
}
`, nginxModule, through, tracker, bind), 0o600))
				return start(t, dir, "nginx", "-p", dir, "-c", "nginx.conf")
			})
		})
	}
}

// atOnce is less than the time between two heartbeats of a stream.
const atOnce = 10 * time.Second

// protocol runs members and clients through a proxy that sends the PROXY protocol. startProxy gets
// the address at which the proxy listens, and the address or the path of the tracker.
func protocol(t *testing.T, bin string, unix bool, gone time.Duration, startProxy func(through, tracker string) *program) {
	options := []string{"--proxy-protocol", "--proxy", "127.0.0.2"}
	socket := filepath.Join(t.TempDir(), "http.sock")
	if unix {
		options = []string{"--proxy-protocol", "--listen", "unix:" + socket}
	}
	direct, p := serveProgram(t, bin, "127.0.0.1:0", options...)
	through, tracker := "127.0.0.1:"+freePort(t), direct
	if unix {
		tracker = socket
	}
	proxy := startProxy(through, tracker)
	throughProxy(t, bin, through, direct, proxy)

	// The tracker knows the client's own port, which X-Forwarded-For does not have.
	out, errs, code := run(t, "curl", "-sS", "-w", " from 127.0.0.1:%{local_port}", "http://"+through+"/ntrk/own?format=json")
	_, from, _ := strings.Cut(out, " from ")
	if code != 0 || !strings.Contains(out, `"you":"`+from+`"`) {
		t.Errorf("%d, %s\n%s", code, out, errs)
	}

	// A peer that is killed leaves with its stream. In HTTP mode haproxy notices that at a heartbeat.
	killed := start(t, t.TempDir(), bin, "watch", through, "killed", "--port", "4556")
	eventually(t, func() error { return prints(t, endpoints("4556"), bin, "list", direct, "killed", "-q") }, killed)
	_ = killed.cmd.Process.Kill()
	began := time.Now()
	eventually(t, func() error { return prints(t, nil, bin, "list", direct, "killed", "-q") })
	if d := time.Since(began); d > gone {
		t.Errorf("listed for %v after its end", d)
	}
	if notes := p.output(t, "stderr"); strings.Contains(notes, "was closed") {
		t.Errorf("the tracker closed a connection of the proxy:\n%s", notes)
	}
}
