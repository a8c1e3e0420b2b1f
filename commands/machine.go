package commands

import (
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"time"

	"ntrack/announce"
	"ntrack/announce/wire"
)

// The processes of one user on one machine share two things on classic trackers: a secret, from which
// the peer ids follow, and locks, which show whether another process has announced the same endpoint.

// keepSecret gives the client the secret of this user on this machine. Some classic trackers remove a
// peer only by the id that announced it.
func (o *client) keepSecret(s Streams) {
	dir, err := stateDir()
	var secret []byte
	if err == nil {
		secret, err = readSecret(dir)
	}
	if err != nil {
		s.note("a --leave by another process may not work on a classic tracker, as no secret can be kept for it: %s", wire.Clean(err.Error()))
		return
	}
	o.Secret = bind(secret, machine())
}

// stateDir is the directory for what ntrack remembers about this user. It creates the directory, but
// never a home directory.
func stateDir() (dir string, err error) {
	if dir = os.Getenv("XDG_STATE_HOME"); !filepath.IsAbs(dir) { // the specification ignores a relative path
		var home string
		switch runtime.GOOS {
		case "darwin":
			dir, err = os.UserConfigDir()
			home = filepath.Dir(dir)
		case "windows":
			dir, err = os.UserCacheDir() // the config directory follows the user to other machines
			home = dir
		default:
			home, err = os.UserHomeDir()
			dir = filepath.Join(home, ".local", "state")
		}
		if err == nil {
			_, err = os.Stat(home)
		}
		if err != nil {
			return "", err
		}
	}
	dir = filepath.Join(dir, "ntrack")
	return dir, os.MkdirAll(dir, 0o700)
}

const secretSize = sha256.Size

// readSecret reads the secret from a file of dir, which it creates if there is none. Processes that
// start at the same time get the same secret. A damaged file is replaced by another one, whose name
// follows from the content of the damaged one: so every process finds the same file again.
func readSecret(dir string) ([]byte, error) {
	first := filepath.Join(dir, "secret")
	file := first
	for range 5 {
		text, err := readSmall(file)
		if errors.Is(err, fs.ErrNotExist) {
			if err = drawSecret(file); err == nil || errors.Is(err, fs.ErrExist) {
				text, err = readSmall(file)
			}
		}
		if err != nil {
			return nil, err
		}
		if secret, err := hex.DecodeString(strings.TrimSpace(text)); err == nil && len(secret) == secretSize {
			return secret, nil
		}
		rest := sha256.Sum256([]byte(text))
		file = fmt.Sprintf("%s-%x", first, rest[:4])
	}
	return nil, fmt.Errorf("%s is damaged: remove it", first)
}

// drawSecret writes a new random secret to a file. The file appears complete or not at all. It is an
// error if the file exists already.
func drawSecret(file string) error {
	secret := make([]byte, secretSize)
	_, _ = rand.Read(secret)
	f, err := os.CreateTemp(filepath.Dir(file), tempPrefix) // only this user can read it
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	_, err = f.WriteString(hex.EncodeToString(secret) + "\n")
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	return os.Link(f.Name(), file)
}

// bind derives from a secret another one for this machine alone.
func bind(secret []byte, machine []string) []byte {
	mac := hmac.New(sha256.New, secret)
	for _, part := range machine {
		fmt.Fprintf(mac, "%q\n", part)
	}
	return mac.Sum(nil)
}

// machine identifies this machine among others that share its home directories or were copied from
// it. Copies may have the same name and the same machine-id, but they did not start at the same
// moment. Containers started together with their host, but each has a network of its own. So an id
// does not survive a restart: what was announced before it cannot be left after it.
//
// A Mac takes its name from the network that it is in, so there the moment of the start has to do.
func machine() []string {
	name, _ := os.Hostname()
	if runtime.GOOS == "darwin" {
		id, err := exec.Command("/usr/sbin/sysctl", "-n", "kern.bootsessionuuid").Output()
		if err != nil {
			return []string{name}
		}
		return []string{strings.TrimSpace(string(id))}
	}
	parts := []string{name}
	for _, file := range []string{"/etc/machine-id", "/etc/hostid", "/proc/sys/kernel/random/boot_id"} {
		text, _ := readSmall(file)
		parts = append(parts, text)
	}
	network, _ := os.Readlink("/proc/self/ns/net")
	return append(parts, network)
}

// members is a file of this user on this machine, in which every process that stays on a classic
// tracker holds a lock. Each endpoint has a byte of its own there, though no byte is ever written. A
// classic tracker knows one peer for all processes that announce the same endpoint, so only the last
// of them may leave. The locks end with their process, however that ends.
type members struct {
	file *os.File

	mu     sync.Mutex
	others map[int64]bool // what leave has reported, by endpoint
}

func openMembers() (*members, error) {
	f, err := openOwn(filepath.Join(os.TempDir(), fmt.Sprintf("ntrack-members-%d", os.Geteuid())))
	if err != nil {
		return nil, err
	}
	return &members{file: f, others: make(map[int64]bool)}, nil
}

// enter is called before an endpoint is announced, and reports whether other processes announce it.
// While the last member leaves, enter waits, but not longer than leaveTime.
func (m *members) enter(ctx context.Context, at int64) (others bool) {
	for end := time.Now().Add(leaveTime); ; {
		others, err := shareByte(m.file, at)
		if err == nil || time.Now().After(end) {
			return others
		}
		select {
		case <-ctx.Done():
			return false
		case <-time.After(10 * time.Millisecond):
		}
	}
}

// leave is called before an endpoint leaves, and reports whether other processes stay. If several
// leave at once, one of them gets the lock, and keeps it until the file is closed.
func (m *members) leave(at int64) (others bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	others, asked := m.others[at]
	if !asked {
		others = claimByte(m.file, at)
		m.others[at] = others
	}
	return others
}

// stayTogether arranges with the other processes of this user on this machine that stay with the
// same endpoint. The caller must call end after the client has left.
func (o *client) stayTogether(ctx context.Context, s Streams, r announce.Request) (end func()) {
	if r.Port == 0 {
		r.Port = o.From.Port()
	}
	if r.Port == 0 || !o.anyClassic() { // no process shares a port that the system chooses
		return func() {}
	}
	m, err := openMembers()
	if err != nil {
		return func() {}
	}
	for _, t := range o.trackers { // native trackers count their holds themselves
		if t.Classic() && m.enter(ctx, o.place(t, r)) {
			s.note("another process announces port %d under this KEY to %s, too: there you are one peer", r.Port, t.HostPort())
		}
	}
	o.Shared = func(t announce.Tracker, r announce.Request) bool { return m.leave(o.place(t, r)) }
	return func() { _ = m.file.Close() }
}

// place is the byte of an endpoint of this machine. Two endpoints share a byte only by bad luck.
func (o *client) place(t announce.Tracker, r announce.Request) int64 {
	text := fmt.Sprintf("%q %q %d %v %q", t.String(), r.Key.Bytes(), r.Port, o.From.Addr(), machine())
	sum := sha256.Sum256([]byte(text))
	return int64(binary.BigEndian.Uint64(sum[:]) >> 2) // a file ends before 1<<63
}
