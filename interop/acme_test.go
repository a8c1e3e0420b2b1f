//go:build linux

package interop_test

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"ntrack/commands/commandstest"
)

// acme gets certificates from pebble, the test authority of Let's Encrypt. They are for 30 s, so they
// are renewed after 20 s. All names lead to one loopback address, whose port 80 is free.
func acme(t *testing.T, bin string) {
	const address = "127.80.80.1"
	dir := t.TempDir()
	file := func(name string) string { return filepath.Join(dir, name) }
	cert, key, err := commandstest.Certificate(time.Now().Add(-time.Hour), time.Now().Add(time.Hour))
	must(t, err)
	must(t, os.WriteFile(file("authority.pem"), cert, 0o600))
	must(t, os.WriteFile(file("authority.key"), key, 0o600))
	dns, api, management, tlsPort := freePort(t), freePort(t), freePort(t), freePort(t)
	must(t, os.WriteFile(file("pebble.json"), fmt.Appendf(nil, `{"pebble": {
		"listenAddress": "127.0.0.1:%s", "managementListenAddress": "127.0.0.1:%s",
		"certificate": %q, "privateKey": %q, "httpPort": 80, "tlsPort": %s,
		"retryAfter": {"authz": 1, "order": 1}, "keyAlgorithm": "ecdsa",
		"profiles": {"default": {"description": "short", "validityPeriod": 30}}}}`,
		api, management, file("authority.pem"), file("authority.key"), tlsPort), 0o600))
	start(t, dir, "pebble-challtestsrv", "-defaultIPv4", address, "-defaultIPv6", "", "-dnsserver", "127.0.0.1:"+dns,
		"-management", "127.0.0.1:"+freePort(t), "-http01", "", "-https01", "", "-tlsalpn01", "", "-doh", "")

	tracker := func(name, tlsAt string, more ...string) *program {
		return start(t, dir, "setsid", append([]string{"env", "SSL_CERT_FILE=" + file("authority.pem"), bin, "serve",
			"--listen-tls", address + ":" + tlsAt, "--acme", name, "--acme-cache", file("cache"),
			"--acme-directory", "https://127.0.0.1:" + api + "/dir"}, more...)...)
	}
	logs := func(p *program, text string) {
		t.Helper()
		eventually(t, func() error {
			if got := p.output(t, "stderr"); !strings.Contains(got, text) {
				return fmt.Errorf("no %q in\n%s", text, got)
			}
			return nil
		}, p)
	}

	// While the authority is away, the log has the cause, and handshakes fail at once.
	first := tracker("tracker.example", tlsPort)
	logs(first, "--acme tracker.example: no certificate: ")
	logs(first, "connection refused")
	logs(first, "the next try is in 1m0s, or at SIGHUP")
	if _, err := handshake(address+":"+tlsPort, "tracker.example", nil); err == nil {
		t.Fatal("there is a certificate without an authority")
	}
	if notes := first.output(t, "stderr"); strings.Count(notes, "no certificate") != 1 {
		t.Errorf("a handshake makes an order:\n%s", notes)
	}

	// When it is back, SIGHUP suffices.
	pebble := start(t, dir, "env", "PEBBLE_VA_NOSLEEP=1", "PEBBLE_AUTHZREUSE=0", "pebble", "-config", file("pebble.json"),
		"-dnsserver", "127.0.0.1:"+dns)
	roots := x509.NewCertPool()
	eventually(t, func() error {
		trusted := x509.NewCertPool()
		trusted.AppendCertsFromPEM(cert)
		client := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: trusted}}}
		resp, err := client.Get("https://127.0.0.1:" + management + "/roots/0")
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		root, err := io.ReadAll(resp.Body)
		if err == nil && !roots.AppendCertsFromPEM(root) {
			err = errors.New("the root is no certificate")
		}
		return err
	}, pebble)
	must(t, first.cmd.Process.Signal(syscall.SIGHUP))
	logs(first, "--acme tracker.example: there is a certificate, valid until ")
	leaf, err := handshake(address+":"+tlsPort, "tracker.example", roots)
	must(t, err)
	if info, err := os.Stat(file("cache")); err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("the cache: %v, %v", info, err)
	}

	// Other names are refused, and the authority does not hear of them.
	if _, err := handshake(address+":"+tlsPort, "stranger.example", roots); err == nil {
		t.Error("a name that is not in --acme has a certificate")
	}
	// A client that names no host gets the first certificate.
	if c, err := tls.Dial("tcp", address+":"+tlsPort, &tls.Config{InsecureSkipVerify: true}); err != nil {
		t.Error(err)
	} else {
		must(t, c.ConnectionState().PeerCertificates[0].VerifyHostname("tracker.example"))
		c.Close()
	}

	// http-01: another tracker has a port for TLS at which the authority does not ask.
	second := tracker("other.example", "0", "--listen", address+":80", "--addr-file", "second")
	logs(second, "--acme other.example: there is a certificate, valid until ")
	at, err := os.ReadFile(file("second"))
	must(t, err)
	if _, err := handshake(strings.Fields(string(at))[1], "other.example", roots); err != nil {
		t.Error(err)
	}

	// Where neither works, the log has what the authority says about it.
	third := tracker("third.example", "0")
	logs(third, "no certificate: tls-alpn-01: ")

	// Renewal.
	eventually(t, func() error {
		renewed, err := handshake(address+":"+tlsPort, "tracker.example", roots)
		if err == nil && renewed.SerialNumber.Cmp(leaf.SerialNumber) == 0 {
			err = errors.New("the certificate is not renewed")
		}
		return err
	}, first, pebble)
	if strings.Contains(pebble.output(t, "stdout"), "stranger") {
		t.Error("the authority has heard of a stranger's name")
	}

	// A tracker that starts again needs no authority.
	must(t, pebble.cmd.Process.Kill())
	must(t, first.cmd.Process.Signal(syscall.SIGTERM))
	first.wait(t)
	again := tracker("tracker.example", tlsPort)
	eventually(t, func() error {
		_, err := handshake(address+":"+tlsPort, "tracker.example", roots)
		return err
	}, again)
}

// handshake connects over TLS, makes a request, and returns the server's certificate.
func handshake(addr, name string, roots *x509.CertPool) (*x509.Certificate, error) {
	c, err := tls.Dial("tcp", addr, &tls.Config{ServerName: name, RootCAs: roots})
	if err != nil {
		return nil, err
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(patience))
	if _, err := io.WriteString(c, "GET /ntrk/k?port=0 HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n"); err != nil {
		return nil, err
	}
	reply, err := io.ReadAll(c)
	if err == nil && !strings.HasPrefix(string(reply), "HTTP/1.1 200 ") {
		err = fmt.Errorf("%q", reply)
	}
	return c.ConnectionState().PeerCertificates[0], err
}
