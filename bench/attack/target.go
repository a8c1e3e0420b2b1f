//go:build linux

package main

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime/debug"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// A target is a server under attack, in a process and a control group of its own.
type target struct {
	name    string
	port    int
	tlsPort int
	admin   string // the address of its metrics; empty if it has none
	cmd     *exec.Cmd
	out     io.ReadCloser // of nethttp, which prints its ports
	group   *group
	done    chan struct{} // closed when it has ended
}

// proxies are the addresses from which attackers send PROXY headers or X-Forwarded-For.
const proxies = "127.9.0.0/16"

// nobody is the user for opentracker if the attack runs as root. As root it would change its root
// directory and not find its files.
const nobody = 65534

// prepare makes what the targets of one kind need.
func (b *bench) prepare(ctx context.Context, server string) error {
	switch server {
	case openServer:
		if _, err := exec.LookPath(server); err != nil {
			return err
		}
		var list strings.Builder
		for _, name := range b.honest.keyNames() {
			fmt.Fprintf(&list, "%x\n", infoHash(name))
		}
		return os.WriteFile(b.file("keys"), []byte(list.String()), 0o644)
	case ntrackServer:
		info, ok := debug.ReadBuildInfo()
		if !ok {
			return errors.New("this program does not know its module")
		}
		b.program = b.file("ntrack")
		if out, err := exec.CommandContext(ctx, "go", "build", "-o", b.program, info.Main.Path).CombinedOutput(); err != nil {
			return fmt.Errorf("go build: %w\n%s", err, out)
		}
	}
	return writeCertificate(b.file("cert"), b.file("key"))
}

func (b *bench) file(name string) string { return filepath.Join(b.dir, name) }

// writeCertificate writes a certificate that nobody trusts, and its key.
func writeCertificate(certFile, keyFile string) error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), DNSNames: []string{"tracker.example"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour)}
	cert, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return err
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return err
	}
	return errors.Join(os.WriteFile(certFile, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert}), 0o600),
		os.WriteFile(keyFile, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private}), 0o600))
}

// start starts a server and waits until it serves.
func (b *bench) start(ctx context.Context, server string) (t *target, err error) {
	t = &target{name: server, group: newGroup(), done: make(chan struct{})}
	defer func() {
		if err != nil {
			err = errors.Join(err, t.stop())
		}
	}()
	e := entry{Group: t.group.entrances()}
	var files []*os.File
	addresses := b.file("addresses")
	switch server {
	case ntrackServer:
		t.admin = fmt.Sprint("127.0.0.1:", freePort())
		_ = os.Remove(addresses)
		e.Args = []string{b.program, "serve", "--listen", "127.0.0.1:0", "--listen-tls", "127.0.0.1:0", "--tls-cert", b.file("cert"),
			"--tls-key", b.file("key"), "--addr-file", addresses, "--admin", t.admin, "--interval", b.honest.Interval.String(),
			"--exempt", "none", "--proxy", proxies, "--proxy-protocol"}
		if b.hasMaxMemory() {
			e.Args = append(e.Args, "--max-memory", b.memory)
		}
	case nethttpServer:
		self, err := os.Executable()
		if err != nil {
			return t, err
		}
		plan, err := json.Marshal(nethttpPlan{Proxies: []netip.Prefix{netip.MustParsePrefix(proxies)}, Interval: b.honest.Interval,
			Cert: b.file("cert"), Key: b.file("key")})
		if err != nil {
			return t, err
		}
		e.Args = []string{self, "role", nethttpServer, string(plan)}
	case openServer:
		t.port = freePort()
		// The file is inherited, so that the program can read it without access to its directory.
		list, err := os.Open(b.file("keys"))
		if err != nil {
			return t, err
		}
		defer list.Close()
		files = append(files, list)
		e.Args = []string{server, "-i", "127.0.0.1", "-p", strconv.Itoa(t.port), "-w", "/dev/fd/3"}
		if os.Getuid() == 0 {
			e.UID = nobody
		}
	}
	if err := t.run(ctx, b, e, files); err != nil {
		return t, err
	}
	switch server {
	case ntrackServer:
		text, err := b.await(ctx, t, func() ([]byte, error) { return os.ReadFile(addresses) })
		if err != nil {
			return t, err
		}
		_, err = fmt.Sscanf(strings.ReplaceAll(text, "127.0.0.1:", ""), "%d\n%d", &t.port, &t.tlsPort)
		return t, err
	case nethttpServer:
		_, err := fmt.Fscan(t.out, &t.port, &t.tlsPort)
		return t, err
	}
	// opentracker listens before it has read its keys, and refuses them until then.
	names := b.honest.keyNames()
	_, err = b.await(ctx, t, func() ([]byte, error) {
		return nil, try(t.port, announceRequest(true, names[len(names)-1], 0, false))
	})
	return t, err
}

// run starts the program of an entry.
func (t *target) run(ctx context.Context, b *bench, e entry, files []*os.File) error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	text, err := json.Marshal(e)
	if err != nil {
		return err
	}
	t.cmd = exec.Command(self, "role", "enter", string(text))
	t.cmd.ExtraFiles, t.cmd.Dir = files, "/"
	t.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if t.name == nethttpServer {
		if t.out, err = t.cmd.StdoutPipe(); err != nil {
			return err
		}
	}
	log, err := os.Create(b.logOf(t.name))
	if err != nil {
		return err
	}
	defer log.Close()
	t.cmd.Stderr = log
	if err := t.cmd.Start(); err != nil {
		return err
	}
	go func() {
		state, _ := t.cmd.Process.Wait()
		t.cmd.ProcessState = state
		close(t.done)
	}()
	return nil
}

// logOf is the file with the log of a server. It is read only if the server does not serve.
func (b *bench) logOf(server string) string { return b.file(server + ".log") }

// await calls get until it returns no error.
func (b *bench) await(ctx context.Context, t *target, get func() ([]byte, error)) (string, error) {
	for deadline := time.Now().Add(20 * time.Second); ; {
		text, err := get()
		if err == nil {
			return string(text), nil
		}
		if t.ended() || time.Now().After(deadline) {
			log, _ := os.ReadFile(b.logOf(t.name))
			return "", fmt.Errorf("%s does not serve: %w\n%s", t.name, err, log)
		}
		if err := sleep(ctx, 10*time.Millisecond); err != nil {
			return "", err
		}
	}
}

// hasMaxMemory says whether ntrack serve has the option.
func (b *bench) hasMaxMemory() bool {
	help, _ := exec.Command(b.program, "serve", "--help").Output()
	return bytes.Contains(help, []byte("--max-memory"))
}

func freePort() int {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return 0
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port
}

// ended says whether the process has ended.
func (t *target) ended() bool {
	select {
	case <-t.done:
		return true
	default:
		return false
	}
}

// stop ends the server and removes its control group.
func (t *target) stop() error {
	if t.cmd != nil && t.cmd.Process != nil {
		_ = t.cmd.Process.Signal(syscall.SIGTERM)
		select {
		case <-t.done:
		case <-time.After(5 * time.Second):
			_ = t.cmd.Process.Kill()
			<-t.done
		}
	}
	if t.out != nil {
		_ = t.out.Close()
	}
	return t.group.remove()
}

// try sends one request from 127.0.0.1 and returns an error unless it is answered without a failure.
func try(port int, request []byte) error {
	c, err := net.Dial("tcp", fmt.Sprint("127.0.0.1:", port))
	if err != nil {
		return err
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(5 * time.Second))
	if _, err := c.Write(request); err != nil {
		return err
	}
	reply, err := io.ReadAll(c)
	if err == nil && (!bytes.HasPrefix(reply, []byte("HTTP/1.")) || !bytes.Contains(reply, []byte(" 200 ")) || bytes.Contains(reply, []byte("failure reason"))) {
		err = fmt.Errorf("refused: %q", reply)
	}
	return err
}

// crowd lets n peers join the attacked key, or leave it. They stay for the ttl of the classic
// interface, 15 minutes, because they do not announce again.
func crowd(port, n int, join bool) error {
	const each = 100 // peers of an address
	for first := 0; first < n; first += each {
		count := min(each, n-first)
		var request []byte
		for i := range count {
			if join {
				request = fmt.Appendf(request, "GET /announce?info_hash=%s&port=%d&numwant=0&compact=1 HTTP/1.1\r\nHost: t\r\n\r\n", attackedKey, 2000+i)
			} else {
				request = fmt.Appendf(request, "DELETE /ntrk/%s?port=%d HTTP/1.1\r\nHost: t\r\n\r\n", attackedKey, 2000+i)
			}
		}
		from := first / each
		d := net.Dialer{Timeout: 5 * time.Second, LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 8, byte(from/250), byte(1+from%250))}}
		c, err := d.Dial("tcp", fmt.Sprint("127.0.0.1:", port))
		if err != nil {
			return err
		}
		err = pipeline(c, request, count)
		if err := errors.Join(err, c.Close()); err != nil {
			return err
		}
	}
	return nil
}

// pipeline sends requests and reads n replies. It returns an error unless all of them are good.
func pipeline(c net.Conn, requests []byte, n int) (err error) {
	_ = c.SetDeadline(time.Now().Add(10 * time.Second))
	if _, err := c.Write(requests); err != nil {
		return err
	}
	var reader replyReader
	var buf [32 << 10]byte
	for n > 0 {
		k, readErr := c.Read(buf[:])
		if readErr != nil {
			return readErr
		}
		reader.read(buf[:k], func(status int, failed bool) bool {
			n--
			if status/100 != 2 || failed {
				err = fmt.Errorf("status %d, failure %t", status, failed)
			}
			return true
		}, func([]byte) {})
		if err != nil {
			return err
		}
	}
	return nil
}
