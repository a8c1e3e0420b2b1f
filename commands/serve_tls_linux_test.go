package commands_test

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"ntrack/commands/commandstest"
)

// A certificate is in two files of a tracker, and clients trust it.
type certificate struct {
	cert, key string
	trusted   *x509.CertPool
	der       []byte
}

func newCertificate(t *testing.T) *certificate {
	dir := t.TempDir()
	c := &certificate{cert: filepath.Join(dir, "cert.pem"), key: filepath.Join(dir, "key.pem"), trusted: x509.NewCertPool()}
	c.replace(t)
	return c
}

// replace writes a new certificate to the files. Clients trust both.
func (c *certificate) replace(t *testing.T) {
	t.Helper()
	cert, key, err := commandstest.Certificate(time.Now().Add(-time.Hour), time.Now().Add(90*24*time.Hour))
	if err != nil {
		t.Fatal(err)
	}
	for file, text := range map[string][]byte{c.cert: cert, c.key: key} {
		if err := os.WriteFile(file, text, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	pair, err := tls.X509KeyPair(cert, key)
	if err != nil {
		t.Fatal(err)
	}
	c.der = pair.Certificate[0]
	c.trusted.AddCert(pair.Leaf)
}

func (c *certificate) options() []string { return []string{"--tls-cert", c.cert, "--tls-key", c.key} }

// A secureConn is a connection of a client that speaks https.
type secureConn struct {
	*tls.Conn
	r *bufio.Reader
}

func dialSecure(at string, config *tls.Config) (*secureConn, error) {
	c, err := tls.DialWithDialer(&net.Dialer{Timeout: patience}, "tcp", at, config)
	if err != nil {
		return nil, err
	}
	_ = c.SetDeadline(time.Now().Add(patience))
	return &secureConn{c, bufio.NewReader(c)}, nil
}

// announce announces, and reads the whole reply. The connection stays open.
func (c *secureConn) announce() error {
	if _, err := io.WriteString(c, "GET /ntrk/k?port=4000 HTTP/1.1\r\nHost: t\r\n\r\n"); err != nil {
		return err
	}
	resp, err := http.ReadResponse(c.r, nil)
	if err != nil {
		return err
	}
	body, err := io.ReadAll(resp.Body)
	if err == nil && (resp.StatusCode != 200 || resp.Close) {
		err = fmt.Errorf("%s, %q, the connection ends: %v", resp.Status, body, resp.Close)
	}
	return err
}

// serve speaks TLS 1.2 and 1.3 with http/1.1, whatever else a client offers.
func TestServeTLSVersions(t *testing.T) {
	t.Parallel()
	cert := newCertificate(t)
	f, at := socket(t, "tcp4", "127.0.0.1:0")
	m := newManager(t, "tls", f)
	m.start(t, cert.options()...)
	m.await(t, "READY=1")
	for _, tt := range []struct {
		version uint16
		offered []string
		want    string // the protocol
		fails   bool
	}{
		{tls.VersionTLS10, nil, "", true},
		{tls.VersionTLS11, nil, "", true},
		{tls.VersionTLS12, nil, "", false},
		{tls.VersionTLS12, []string{"h2", "http/1.1"}, "http/1.1", false},
		{tls.VersionTLS13, nil, "", false},
		{tls.VersionTLS13, []string{"h2", "http/1.1"}, "http/1.1", false},
		{tls.VersionTLS13, []string{"h2"}, "", true},
		{tls.VersionTLS13, []string{"acme-tls/1"}, "", true}, // without --acme
	} {
		what := fmt.Sprintf("%s, %q", tls.VersionName(tt.version), tt.offered)
		c, err := dialSecure(at, &tls.Config{
			RootCAs: cert.trusted, ServerName: "localhost", NextProtos: tt.offered, MinVersion: tt.version, MaxVersion: tt.version,
		})
		if tt.fails {
			if alert, ok := errors.AsType[*net.OpError](err); !ok || alert.Op != "remote error" {
				t.Errorf("%s: got %v, want an alert of TLS", what, err)
			}
			continue
		}
		if err != nil {
			t.Errorf("%s: %v", what, err)
			continue
		}
		state := c.ConnectionState()
		if err := c.announce(); err != nil || state.Version != tt.version || state.NegotiatedProtocol != tt.want {
			t.Errorf("%s: %s, %q, %v", what, tls.VersionName(state.Version), state.NegotiatedProtocol, err)
		}
		c.Close()
	}
}

// While the certificate is replaced, open connections and streams stay, and new ones do not fail.
func TestServeTLSReload(t *testing.T) {
	t.Parallel()
	cert := newCertificate(t)
	first := cert.der
	f, at := socket(t, "tcp4", "127.0.0.1:0")
	m := newManager(t, "tls", f)
	s := m.start(t, append(cert.options(), "--max-conns-per-addr", "0")...)
	m.await(t, "READY=1")
	config := &tls.Config{RootCAs: cert.trusted, ServerName: "localhost"}
	dial := func() *secureConn {
		t.Helper()
		c, err := dialSecure(at, config)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		return c
	}
	var open []*secureConn
	for range 50 {
		c := dial()
		if err := c.announce(); err != nil {
			t.Fatal(err)
		}
		open = append(open, c)
	}
	stream := dial()
	if _, err := io.WriteString(stream, "GET /ntrk/stream?port=4000 HTTP/1.1\r\nHost: t\r\nAccept: text/event-stream\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	resp, err := http.ReadResponse(stream.r, nil)
	if err != nil || resp.StatusCode != 200 {
		t.Fatal(resp, err)
	}

	cert.replace(t)
	stop := make(chan struct{})
	var clients sync.WaitGroup
	for range 4 {
		clients.Go(func() {
			for {
				c, err := dialSecure(at, config)
				if err == nil {
					err = c.announce()
					c.Close()
				}
				if err != nil {
					t.Errorf("during the reload: %v", err)
					return
				}
				select {
				case <-stop:
					return
				default:
				}
			}
		})
	}
	s.signal(t, syscall.SIGHUP)
	s.out.await(t, "the certificate has been read again from "+cert.cert)
	c := dial()
	close(stop)
	clients.Wait()
	if got := c.ConnectionState().PeerCertificates[0].Raw; !bytes.Equal(got, cert.der) || bytes.Equal(got, first) {
		t.Error("a new connection has the old certificate")
	}
	for _, c := range append(open, c) {
		if err := c.announce(); err != nil {
			t.Errorf("after the reload: %v", err)
		}
	}
	// Another peer arrives, and the old stream reports it.
	other, err := dialSecure(at, config)
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	if _, err := io.WriteString(other, "GET /ntrk/stream?port=4999 HTTP/1.1\r\nHost: t\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	for lines := bufio.NewScanner(resp.Body); ; {
		if !lines.Scan() {
			t.Fatalf("the stream has ended: %v", lines.Err())
		}
		if strings.Contains(lines.Text(), "127.0.0.1:4999") {
			break
		}
	}
}

// serve speaks https at a socket that systemd calls tls, and serves the operator at one called admin.
func TestActivatedTLSAndAdmin(t *testing.T) {
	t.Parallel()
	cert := newCertificate(t)
	secure, secureAt := socket(t, "tcp4", "127.0.0.1:0")
	admin, adminAt := socket(t, "tcp4", "127.0.0.1:0")
	m := newManager(t, "tls:admin", secure, admin)
	file := filepath.Join(t.TempDir(), "addr")
	m.start(t, append(cert.options(), "--addr-file", file)...)
	m.await(t, "READY=1")
	if b, err := os.ReadFile(file); err != nil || string(b) != secureAt+"\n" {
		t.Errorf("serve listens at %q, %v", b, err)
	}
	transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: cert.trusted}}
	defer transport.CloseIdleConnections()
	client := &http.Client{Transport: transport, Timeout: patience}
	for _, tt := range []struct {
		url    string
		status int
	}{
		{"https://" + secureAt + "/ntrk/k?port=4000", 200},
		{"http://" + secureAt + "/ntrk/k?port=4000", 400},
		{"https://" + secureAt + "/metrics", 404},
		{"http://" + adminAt + "/metrics", 200},
		{"http://" + adminAt + "/healthz", 200},
		{"http://" + adminAt + "/readyz", 200},
		{"http://" + adminAt + "/ntrk/k?port=4000", 404},
	} {
		resp, err := client.Get(tt.url)
		if err != nil {
			t.Error(err)
			continue
		}
		resp.Body.Close()
		if resp.StatusCode != tt.status {
			t.Errorf("%s: %s, want %d", tt.url, resp.Status, tt.status)
		}
	}
}

// A certificate needs a socket that serves it, and such a socket needs a certificate.
func TestActivatedTLSWrong(t *testing.T) {
	t.Parallel()
	f, _ := socket(t, "tcp4", "127.0.0.1:0")
	cert := newCertificate(t)
	for _, tt := range []struct {
		names string
		args  []string
		want  string
	}{
		{"tls", nil, `systemd socket "tls" needs a certificate: --tls-cert FILE --tls-key FILE, or --acme NAME`},
		{"plain", cert.options(), "--tls-cert and --acme are for https, and nothing serves https: add --listen-tls ADDR, such as :443"},
		{"admin", cert.options(), "--tls-cert and --acme are for https, and nothing serves https: add --listen-tls ADDR, such as :443"},
	} {
		s := newManager(t, tt.names, f).start(t, tt.args...)
		if code := s.wait(t); code != 1 || s.out.String() != "ntrack: "+tt.want+"\n" {
			t.Errorf("%q: exit code %d\n%swant\nntrack: %s", tt.names, code, s.out, tt.want)
		}
	}
}
