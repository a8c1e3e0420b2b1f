//go:build linux

package interop_test

import (
	"bytes"
	"crypto/sha1"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"syscall"
	"testing"
)

// A swarm is a file that some clients have and others want, and the tracker where they meet.
type swarm struct {
	bin, tracker string
	torrent      string // path of the .torrent file, the only thing that the clients get
	key          string
	have, want   string // directories of the clients that have the file and that want it
	file         []byte
}

func newSwarm(t *testing.T, bin string) *swarm {
	t.Helper()
	dir := t.TempDir()
	s := &swarm{
		bin: bin, tracker: serve(t, bin),
		torrent: filepath.Join(dir, "t.torrent"),
		have:    filepath.Join(dir, "have"), want: filepath.Join(dir, "want"),
		file: make([]byte, 300_000),
	}
	var seed [32]byte
	copy(seed[:], t.Name())
	_, _ = rand.NewChaCha8(seed).Read(s.file)
	must(t, os.Mkdir(s.have, 0o755))
	must(t, os.Mkdir(s.want, 0o755))
	must(t, os.WriteFile(filepath.Join(s.have, "data"), s.file, 0o644))
	// The torrent is private (BEP 27): clients take its peers from the tracker alone.
	if out, errs, code := run(t, "mktorrent", "-p", "-l", "15", "-a", "http://"+s.tracker+"/announce",
		"-o", s.torrent, filepath.Join(s.have, "data")); code != 0 {
		t.Fatalf("mktorrent: exit code %d\n%s%s", code, out, errs)
	}
	b, err := os.ReadFile(s.torrent)
	must(t, err)
	// The info dictionary is the last entry: "info" sorts after every other key of this torrent.
	_, info, ok := bytes.Cut(b, []byte("4:info"))
	if !ok {
		t.Fatalf("no info dictionary in %q", b)
	}
	hash := sha1.Sum(info[:len(info)-1])
	s.key = "urn:btih:" + hex.EncodeToString(hash[:])
	return s
}

// lists returns an error unless `ntrack list` prints exactly the peers at these ports.
func (s *swarm) lists(t *testing.T, ports ...string) error {
	t.Helper()
	return prints(t, endpoints(ports...), s.bin, "list", "-t", s.tracker, "-q", s.key)
}

// fetched returns an error unless the whole file has arrived.
func (s *swarm) fetched() error {
	got, err := os.ReadFile(filepath.Join(s.want, "data"))
	if err == nil && !bytes.Equal(got, s.file) {
		err = fmt.Errorf("got %d bytes that differ from the %d sent", len(got), len(s.file))
	}
	return err
}

// aria2 runs aria2c, which can learn about peers from the tracker alone.
func aria2(t *testing.T, s *swarm, dir, port string, args ...string) *program {
	t.Helper()
	return start(t, dir, "aria2c", append(args,
		"--dir="+dir, "--listen-port="+port, "--interface=127.0.0.1", "--disable-ipv6=true",
		"--enable-dht=false", "--enable-dht6=false", "--bt-enable-lpd=false", "--enable-peer-exchange=false",
		"--no-conf=true", "--no-netrc=true", "--async-dns=false", "--file-allocation=none",
		"--log=-", "--log-level=info", "--summary-interval=0", "--show-console-readout=false", "--enable-color=false",
		s.torrent)...)
}

// transmissionConfig makes a configuration directory for Transmission, which can then learn about
// peers from the tracker alone. Not every setting here has a flag on the command line.
func transmissionConfig(t *testing.T, dir, port string, more map[string]any) string {
	t.Helper()
	number, err := strconv.Atoi(port)
	must(t, err)
	settings := map[string]any{
		"download-dir": dir, "peer-port": number, "bind-address-ipv4": "127.0.0.1", "bind-address-ipv6": "::1",
		"dht-enabled": false, "lpd-enabled": false, "pex-enabled": false, "utp-enabled": false,
		"port-forwarding-enabled": false, "rpc-enabled": false, "blocklist-enabled": false,
	}
	for name, value := range more {
		settings[name] = value
	}
	b, err := json.Marshal(settings)
	must(t, err)
	config := t.TempDir()
	must(t, os.WriteFile(filepath.Join(config, "settings.json"), b, 0o600))
	return config
}

func aria2FromTransmission(t *testing.T, bin string) {
	s := newSwarm(t, bin)
	watch := start(t, t.TempDir(), bin, "watch", "-t", s.tracker, s.key, "--every", "100ms")

	inbox, seederPort := t.TempDir(), freePort(t)
	config := transmissionConfig(t, s.have, seederPort, map[string]any{"watch-dir-enabled": true, "watch-dir": inbox})
	must(t, os.Link(s.torrent, filepath.Join(inbox, "t.torrent")))
	seeder := start(t, s.have, "transmission-daemon", "--foreground", "--log-debug", "--config-dir", config)
	eventually(t, func() error { return s.lists(t, seederPort) }, seeder)
	lines := "join 127.0.0.1:" + seederPort + "\n"
	watch.prints(t, lines)

	port := freePort(t)
	aria2(t, s, s.want, port, "--seed-time=0").wait(t)
	must(t, s.fetched())

	// aria2 is done and has left. The watch has reported both.
	eventually(t, func() error { return s.lists(t, seederPort) }, seeder)
	watch.prints(t, lines+fmt.Sprintf("join 127.0.0.1:%s\nleave 127.0.0.1:%[1]s\n", port))
}

func transmissionFromAria2(t *testing.T, bin string) {
	s := newSwarm(t, bin)
	seederPort := freePort(t)
	// Transmission accepts connections from loopback, but never opens one to it. So this seeder has
	// to connect, and asks the tracker for peers every second.
	seeder := aria2(t, s, s.have, seederPort, "--check-integrity=true", "--seed-ratio=0", "--bt-tracker-interval=1")
	eventually(t, func() error { return s.lists(t, seederPort) }, seeder)

	port := freePort(t)
	config := transmissionConfig(t, s.want, port, nil)
	fetcher := start(t, s.want, "transmission-cli", "--config-dir", config, "--download-dir", s.want, "--port", port,
		"--no-portmap", s.torrent)
	eventually(t, s.fetched, seeder, fetcher)
	must(t, s.lists(t, seederPort, port))
	// list names the clients by their peer ids.
	table, _, _ := run(t, bin, "list", "-t", s.tracker, s.key)
	for at, client := range map[string]string{seederPort: `aria2 1\.\d+`, port: `Transmission \d\.\d`} {
		if !regexp.MustCompile(`(?m)^127\.0\.0\.1:` + at + ` +loopback +` + client).MatchString(table) {
			t.Errorf("no %s at port %s:\n%s", client, at, table)
		}
	}

	must(t, seeder.cmd.Process.Signal(syscall.SIGINT)) // it then leaves the tracker
	eventually(t, func() error { return s.lists(t, port) }, fetcher)
}
