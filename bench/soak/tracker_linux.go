package main

import (
	"bufio"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// What is measured, as indexes of figures.
const (
	goroutines = iota
	descriptors
	rss
	heap
	keys
	peers
	streams
	connections
	panics
	numFigures
)

var names = [numFigures]string{"goroutines", "descriptors", "rss", "heap", "keys", "peers", "streams", "connections", "panics"}

// figures are what was measured at one moment.
type figures [numFigures]float64

// metrics has the index of each metric that matters.
var metrics = map[string]int{
	"go_goroutines":                 goroutines,
	"process_open_fds":              descriptors,
	"process_resident_memory_bytes": rss,
	"go_memstats_heap_alloc_bytes":  heap,
	"ntrack_keys":                   keys,
	"ntrack_peers":                  peers,
	"ntrack_streams":                streams,
	"ntrack_panics_total":           panics,
}

// proxy is the address of the reverse proxy in the load.
const proxy = "127.0.0.2"

// idleTimeout is how long the tracker keeps a connection without a request.
const idleTimeout = 3 * time.Second

// A tracker is `ntrack serve` as a process of its own.
type tracker struct {
	cmd               *exec.Cmd
	dir               string
	plain, tls, admin string
	roots             *x509.CertPool
	client            *http.Client
}

// startTracker starts a program, or a build of the module in this directory.
func startTracker(ctx context.Context, program string, stderr io.Writer) (_ *tracker, err error) {
	t := &tracker{client: &http.Client{Timeout: 20 * time.Second}}
	if t.dir, err = os.MkdirTemp("", "soak"); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			_ = os.RemoveAll(t.dir)
		}
	}()
	if program == "" {
		program = filepath.Join(t.dir, "ntrack")
		build := exec.CommandContext(ctx, "go", "build", "-o", program, ".")
		build.Stderr = stderr
		if err := build.Run(); err != nil {
			return nil, fmt.Errorf("go build: %w (run it at the top of the module, or use -ntrack)", err)
		}
	}
	if err := errors.Join(t.writeCertificate(), t.deny("")); err != nil {
		return nil, err
	}
	t.cmd = exec.Command(program, "serve", "--listen", "127.0.0.1:0", "--listen-tls", "127.0.0.1:0",
		"--tls-cert", t.file("cert"), "--tls-key", t.file("key"), "--admin", "127.0.0.1:0", "--deny", t.file("deny"),
		"--proxy", proxy, "--proxy-protocol", "--exempt", "none", "--index",
		"--interval", "2s", "--idle-timeout", idleTimeout.String(), "--request-timeout", "3s")
	t.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	pipe, err := t.cmd.StderrPipe()
	if err != nil {
		return nil, err
	}
	if err := t.cmd.Start(); err != nil {
		return nil, err
	}
	opened := regexp.MustCompile(`open: http (\S+) .*https (\S+) .*admin (\S+) `)
	lines := bufio.NewScanner(pipe)
	for lines.Scan() {
		m := opened.FindStringSubmatch(lines.Text())
		if m == nil {
			fmt.Fprintln(stderr, lines.Text())
			continue
		}
		t.plain, t.tls, t.admin = m[1], m[2], m[3]
		go func() { // its warnings are about the load, and are many
			for lines.Scan() {
				if strings.Contains(lines.Text(), "panic") {
					fmt.Fprintln(stderr, lines.Text())
				}
			}
		}()
		return t, nil
	}
	return nil, fmt.Errorf("the tracker did not start: %w", t.cmd.Wait())
}

func (t *tracker) file(name string) string { return filepath.Join(t.dir, name) }

// deny replaces the list of what the tracker refuses. It reads the list on SIGHUP.
func (t *tracker) deny(list string) error { return os.WriteFile(t.file("deny"), []byte(list), 0o600) }

func (t *tracker) reload() error { return t.cmd.Process.Signal(syscall.SIGHUP) }

// stop ends the tracker as its operator would.
func (t *tracker) stop() error {
	_ = t.cmd.Process.Signal(syscall.SIGTERM)
	kill := time.AfterFunc(30*time.Second, func() { _ = t.cmd.Process.Kill() })
	defer kill.Stop()
	return errors.Join(t.cmd.Wait(), os.RemoveAll(t.dir))
}

// writeCertificate makes a certificate for 127.0.0.1.
func (t *tracker) writeCertificate() error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	now := time.Now()
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotBefore: now.Add(-time.Hour), NotAfter: now.Add(24 * time.Hour), IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}}
	cert, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return err
	}
	secret, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return err
	}
	text := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert})
	t.roots = x509.NewCertPool()
	t.roots.AppendCertsFromPEM(text)
	return errors.Join(
		os.WriteFile(t.file("cert"), text, 0o600),
		os.WriteFile(t.file("key"), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: secret}), 0o600))
}

// get asks the tracker's listener for the operator.
func (t *tracker) get(ctx context.Context, path string) (string, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+t.admin+path, nil)
	if err != nil {
		return "", err
	}
	reply, err := t.client.Do(req)
	if err != nil {
		return "", err
	}
	body, err := io.ReadAll(reply.Body)
	_ = reply.Body.Close()
	if err == nil && reply.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: %s", path, reply.Status)
	}
	return string(body), err
}

// figures measures the tracker.
func (t *tracker) figures(ctx context.Context) (f figures, err error) {
	text, err := t.get(ctx, "/metrics")
	if err != nil {
		return f, err
	}
	found := 0
	for line := range strings.Lines(text) {
		name, value, _ := strings.Cut(strings.TrimSpace(line), " ")
		v, _ := strconv.ParseFloat(value, 64)
		if i, ok := metrics[name]; ok {
			f[i] = v
			found++
		}
		if strings.HasPrefix(name, "ntrack_connections{") && !strings.Contains(name, "refused") {
			f[connections] += v
		}
	}
	if found != len(metrics) {
		return f, fmt.Errorf("/metrics has %d of %d numbers", found, len(metrics))
	}
	return f, nil
}

// collected measures the tracker after garbage collections.
func (t *tracker) collected(ctx context.Context) (f figures, err error) {
	for range 2 { // what the first one finds, the second one frees
		if _, err := t.get(ctx, "/debug/pprof/heap?gc=1"); err != nil {
			return f, err
		}
	}
	return t.figures(ctx)
}
