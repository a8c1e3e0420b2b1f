//go:build linux

package interop_test

import (
	"bufio"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"
)

// The configurations of proxies in docs/operating.md run here as they are there, except that the test
// replaces what a machine has only one of: port 443 by a free port, 127.0.0.1:6969 by the tracker's
// address, tracker.example by 127.0.0.1, and the files of the certificate by its own.

// operatingBlock returns the only block of a language under a heading of docs/operating.md.
func operatingBlock(t *testing.T, heading, language string) string {
	t.Helper()
	page, err := os.ReadFile("../docs/operating.md")
	must(t, err)
	_, section, _ := strings.Cut(string(page), "\n### "+heading+"\n")
	section = regexp.MustCompile(`(?s)\n##.*`).ReplaceAllString(section, "\n")
	list := regexp.MustCompile("(?ms)^```"+language+"\n(.*?)^```$").FindAllStringSubmatch(section, -1)
	if len(list) != 1 {
		t.Fatalf("%q of docs/operating.md has %d blocks of %s, want one", heading, len(list), language)
	}
	return list[0][1]
}

// proxied runs the tracker and a proxy as a section of docs/operating.md configures them. run starts the
// proxy with this configuration, and returns a file with the certificate that clients should trust.
func proxied(t *testing.T, bin, heading, language string, run func(t *testing.T, dir, config string) (*program, string)) {
	t.Helper()
	command := operatingBlock(t, heading, "sh")
	args, ok := strings.CutPrefix(strings.TrimSpace(command), "ntrack serve ")
	if !ok {
		t.Fatalf("%q of docs/operating.md runs %q", heading, command)
	}
	block, port, dir := operatingBlock(t, heading, language), freePort(t), t.TempDir()
	allowHeartbeats(t, block)
	tracker := serve(t, bin, strings.Fields(args)...)
	config := strings.NewReplacer(":443", ":"+port, " 443", " "+port, "127.0.0.1:6969", tracker).Replace(block)
	config = regexp.MustCompile(`/etc/\S*\.pem`).ReplaceAllString(config, filepath.Join(dir, "both.pem"))
	name := "127.0.0.1"
	if language == "caddy" {
		name += ":" + port // in place of port 443, which the block does not mention
	}
	config = strings.ReplaceAll(config, "tracker.example", name)
	writeCertificate(t, filepath.Join(dir, "both.pem"))
	proxy, trusted := run(t, dir, config)

	through := "https://127.0.0.1:" + port
	client, other := clientAt(t, "127.0.0.3", trusted, through), clientAt(t, "127.0.0.4", trusted, through)
	eventually(t, client.reach, proxy)
	must(t, other.reach())
	client.announces(t)
	client.follows(t, other)
	script := write(t, "ntrack", fmt.Sprintf("#!/bin/sh\nSSL_CERT_FILE=%s exec %s \"$@\"\n", trusted, bin))
	must(t, os.Chmod(script, 0o755))
	throughProxy(t, script, through, through, proxy)
}

// allowHeartbeats checks the times that a configuration sets. An event stream has a heartbeat every 15 s,
// so a proxy that waits for less than twice that may end it. Only a connect may be over sooner.
func allowHeartbeats(t *testing.T, config string) {
	t.Helper()
	for _, m := range regexp.MustCompile(`(?m)^.*timeout.*\s(\d+\w*);?$`).FindAllStringSubmatch(config, -1) {
		d, err := time.ParseDuration(m[1])
		if err != nil || d < 30*time.Second && !strings.Contains(m[0], "connect") {
			t.Errorf("%q: want 30s or more", m[0])
		}
	}
}

// nginx chunks a stream.
func nginx(t *testing.T, bin string) {
	proxied(t, bin, "nginx", "nginx", func(t *testing.T, dir, config string) (*program, string) {
		return startNginx(t, dir, `
http {
access_log off;
client_body_temp_path body;
proxy_temp_path proxy;
fastcgi_temp_path fastcgi;
uwsgi_temp_path uwsgi;
scgi_temp_path scgi;
`+config+"}\n"), filepath.Join(dir, "both.pem")
	})
}

// nginxModule is in a Debian package of its own.
const nginxModule = "/usr/lib/nginx/modules/ngx_stream_module.so"

func nginxStream(t *testing.T, bin string) {
	proxied(t, bin, "nginx, by the PROXY protocol", "nginx", func(t *testing.T, dir, config string) (*program, string) {
		return startNginx(t, dir, config), filepath.Join(dir, "both.pem")
	})
}

// startNginx runs nginx with the settings that Debian has in nginx.conf in another way.
func startNginx(t *testing.T, dir, config string) *program {
	t.Helper()
	file := filepath.Join(dir, "nginx.conf")
	must(t, os.WriteFile(file, []byte("load_module "+nginxModule+";\ndaemon off;\nmaster_process off;\npid nginx.pid;\nerror_log stderr;\nevents {}\n"+config), 0o600))
	return start(t, dir, "nginx", "-p", dir, "-c", file)
}

// haproxy forwards no half-close, and its requests do not show that a proxy sent them.
func haproxy(t *testing.T, bin string) {
	proxied(t, bin, "haproxy", "haproxy", startHaproxy)
}

func haproxyTCP(t *testing.T, bin string) {
	proxied(t, bin, "haproxy, by the PROXY protocol", "haproxy", startHaproxy)
}

func startHaproxy(t *testing.T, dir, config string) (*program, string) {
	t.Helper()
	file := filepath.Join(dir, "haproxy.cfg")
	must(t, os.WriteFile(file, []byte(config), 0o600))
	return start(t, dir, "haproxy", "-db", "-f", file), filepath.Join(dir, "both.pem")
}

// Caddy has an authority of its own for names and addresses that are not public.
func caddy(t *testing.T, bin string) {
	proxied(t, bin, "Caddy", "caddy", func(t *testing.T, dir, config string) (*program, string) {
		file := filepath.Join(dir, "Caddyfile")
		must(t, os.WriteFile(file, fmt.Appendf(nil, `{
	admin off
	auto_https disable_redirects
	skip_install_trust
	storage file_system %s
}
%s`, dir, config), 0o600))
		return start(t, dir, "caddy", "run", "--config", file, "--adapter", "caddyfile"),
			filepath.Join(dir, "pki/authorities/local/root.crt")
	})
}

// writeCertificate writes a key and a certificate for 127.0.0.1, which signs itself.
func writeCertificate(t *testing.T, file string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true,
	}
	cert, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	must(t, err)
	secret, err := x509.MarshalPKCS8PrivateKey(key)
	must(t, err)
	text := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert})
	text = append(text, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: secret})...)
	must(t, os.WriteFile(file, text, 0o600))
}

// A remoteClient is at an address that neither a proxy nor a tracker has. So it shows whether the tracker
// lists the address of the client or of the proxy.
type remoteClient struct {
	http.Client
	addr, trusted, base string
}

func clientAt(t *testing.T, addr, trusted, base string) *remoteClient {
	t.Helper()
	c := &remoteClient{addr: addr, trusted: trusted, base: base}
	t.Cleanup(c.CloseIdleConnections)
	return c
}

// reach returns an error until the proxy answers.
func (c *remoteClient) reach() error {
	roots := x509.NewCertPool()
	certs, err := os.ReadFile(c.trusted)
	if err != nil {
		return err
	}
	roots.AppendCertsFromPEM(certs)
	dialer := &net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(c.addr)}}
	c.Transport = &http.Transport{
		DialContext:     dialer.DialContext,
		TLSClientConfig: &tls.Config{RootCAs: roots}, ForceAttemptHTTP2: true,
	}
	reply, err := c.Get(c.base + "/ntrk/room?port=0")
	if err != nil {
		return err
	}
	defer reply.Body.Close()
	if reply.StatusCode != http.StatusOK {
		return fmt.Errorf("status %s", reply.Status)
	}
	return nil
}

// send sends a request with a forged X-Forwarded-For, and requires success.
func (c *remoteClient) send(t *testing.T, verb, query, accept string) *http.Response {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), verb, c.base+"/ntrk/room"+query, nil)
	must(t, err)
	request.Header.Set("X-Forwarded-For", "192.0.2.1")
	request.Header.Set("Accept", accept)
	reply, err := c.Do(request)
	must(t, err)
	if reply.StatusCode >= 300 {
		t.Fatalf("%s %s: status %s", verb, query, reply.Status)
	}
	return reply
}

// lists waits until the tracker lists these peers, and no others.
func (c *remoteClient) lists(t *testing.T, peers ...string) {
	t.Helper()
	eventually(t, func() error {
		reply := c.send(t, "GET", "?port=0&format=text", "*/*")
		defer reply.Body.Close()
		body, err := io.ReadAll(reply.Body)
		if got := strings.Fields(string(body)); err != nil || !slices.Equal(got, peers) {
			return fmt.Errorf("%q, %v; want %q", got, err, peers)
		}
		return nil
	})
}

// announces joins and leaves by single requests.
func (c *remoteClient) announces(t *testing.T) {
	t.Helper()
	_ = c.send(t, "GET", "?port=4000", "*/*").Body.Close()
	c.lists(t, c.addr+":4000")
	_ = c.send(t, "DELETE", "?port=4000", "*/*").Body.Close()
	c.lists(t)
}

// soon bounds what a proxy has to pass on at once. A buffer in between would hold an event back until the
// next heartbeat, after up to 15 s, and a dead peer would stay listed longer than that.
const soon = 5 * time.Second

// follows joins by an event stream. It sees another peer join, ends the stream, and so leaves.
func (c *remoteClient) follows(t *testing.T, other *remoteClient) {
	t.Helper()
	stream := c.send(t, "GET", "?port=4001", "text/event-stream")
	defer stream.Body.Close()
	lines := bufio.NewReader(stream.Body)
	until := func(want string) {
		t.Helper()
		for {
			line, err := lines.ReadString('\n')
			if err != nil {
				t.Fatalf("%v before %q", err, want)
			}
			if line == want+"\n" {
				return
			}
		}
	}
	until("event: you")
	until("data: " + c.addr + ":4001")
	began := time.Now()
	_ = other.send(t, "GET", "?port=4002", "*/*").Body.Close()
	until("event: join")
	until("data: " + other.addr + ":4002")
	if d := time.Since(began); d > soon {
		t.Errorf("the stream showed the join after %v", d)
	}
	began = time.Now()
	_ = stream.Body.Close()
	other.lists(t, other.addr+":4002")
	if d := time.Since(began); d > soon {
		t.Errorf("the peer was listed for %v after its stream had ended", d)
	}
	_ = other.send(t, "DELETE", "?port=4002", "*/*").Body.Close()
}
