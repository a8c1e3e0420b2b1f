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

// A classic tracker is one that ntrack reaches by the protocol of BitTorrent. For these trackers the
// processes of one user on one machine share a secret and a file of locks. The secret determines the
// ids of their peers. The locks show whether another process announces the same endpoint.

// keepSecret gives the client the secret of this user on this machine. Some classic trackers remove a
// peer only if the request has the id under which the peer was announced.
func (o *client) keepSecret(s Streams) {
	dir, err := stateDir()
	var secret []byte
	if err == nil {
		secret, err = readSecret(dir)
	}
	if err != nil {
		s.note("--leave may not work on a classic tracker, because ntrack has no secret for its peer ids: %s", wire.Clean(err.Error()))
		return
	}
	o.Secret = forMachine(secret, machine())
}

// stateDir returns the directory in which ntrack keeps files of this user. It creates the directory,
// but never the home directory.
func stateDir() (dir string, err error) {
	if dir = os.Getenv("XDG_STATE_HOME"); !filepath.IsAbs(dir) { // the XDG rules say to ignore a relative path
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

// readSecret reads the secret from a file in dir, and creates the file if it does not exist.
// Processes that start at the same time get the same secret. If the file is damaged, readSecret uses
// another one, whose name contains a hash of the damaged content. So all processes use the same file.
func readSecret(dir string) ([]byte, error) {
	first := filepath.Join(dir, "secret")
	file := first
	for range 5 {
		text, err := readSmall(file)
		if errors.Is(err, fs.ErrNotExist) {
			if err = createSecret(file); err == nil || errors.Is(err, fs.ErrExist) {
				text, err = readSmall(file)
			}
		}
		if err != nil {
			return nil, err
		}
		if secret, err := hex.DecodeString(strings.TrimSpace(text)); err == nil && len(secret) == secretSize {
			return secret, nil
		}
		sum := sha256.Sum256([]byte(text))
		file = fmt.Sprintf("%s-%x", first, sum[:4])
	}
	return nil, fmt.Errorf("%s is damaged: remove it", first)
}

// createSecret writes a new random secret to a file. The file appears complete or not at all. If it
// exists already, createSecret returns an error.
func createSecret(file string) error {
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

// forMachine derives the secret of one machine from the secret in the file.
func forMachine(secret []byte, machine []string) []byte {
	mac := hmac.New(sha256.New, secret)
	for _, part := range machine {
		fmt.Fprintf(mac, "%q\n", part)
	}
	return mac.Sum(nil)
}

// machine returns texts that together identify this machine. Several machines may share one home
// directory. A copy of a machine may have the same name and machine-id, but its boot_id differs,
// because it started at another time. Containers have the boot_id of their host, but each has a
// network namespace of its own. The texts change when the machine restarts. So a peer that was
// announced before a restart cannot leave after it.
//
// On a Mac the name depends on the network, so machine returns only the id of the last start.
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

// members are the processes of this user on this machine that are members of a classic tracker. Such
// a tracker has one peer for all processes that announce the same endpoint, so only the last of these
// processes may leave.
//
// Each process holds locks on one file. An endpoint has the byte at its lockOffset, but nothing is
// ever written there. A process that is killed loses its locks, too.
type members struct {
	file *os.File

	mu     sync.Mutex
	others map[int64]bool // the results of leave, by offset
}

func openMembers() (*members, error) {
	f, err := openOwn(filepath.Join(os.TempDir(), fmt.Sprintf("ntrack-members-%d", os.Geteuid())))
	if err != nil {
		return nil, err
	}
	return &members{file: f, others: make(map[int64]bool)}, nil
}

// enter is called before an endpoint is announced, and reports whether other processes announce it.
// If the last of these processes is just leaving, the tracker will forget the endpoint. So enter
// waits until that process has ended, but not longer than leaveTime. Then it returns without a lock.
func (m *members) enter(ctx context.Context, offset int64) bool {
	for end := time.Now().Add(leaveTime); ; {
		others, err := shareByte(m.file, offset)
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

// leave is called before an endpoint leaves, and reports whether other processes still announce it.
// If several processes leave at the same time, one of them gets the lock, and keeps it until it
// closes the file. A client leaves once over each address family, so leave remembers its result.
func (m *members) leave(offset int64) (others bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	others, known := m.others[offset]
	if !known {
		others = !claimByte(m.file, offset)
		m.others[offset] = others
	}
	return others
}

// enterMembers makes this process one of the members of each classic tracker, and prints a note if
// others announce the same endpoint. The client then leaves only if no other process remains. The
// caller must call end after the client has left.
func (o *client) enterMembers(ctx context.Context, s Streams, r announce.Request) (end func()) {
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
	for _, t := range o.trackers { // other trackers count the processes that announce an endpoint
		if t.Classic() && m.enter(ctx, o.lockOffset(t, r)) {
			s.note("another process announces port %d under this KEY to %s, too: to that tracker both are one peer", r.Port, t.HostPort())
		}
	}
	o.Shared = func(t announce.Tracker, r announce.Request) bool { return m.leave(o.lockOffset(t, r)) }
	return func() { _ = m.file.Close() }
}

// lockOffset is the offset of an endpoint's byte in the file of locks. It is a hash: two endpoints
// practically never have the same one.
func (o *client) lockOffset(t announce.Tracker, r announce.Request) int64 {
	text := fmt.Sprintf("%q %q %d %v %q", t.String(), r.Key.Bytes(), r.Port, o.From.Addr(), machine())
	sum := sha256.Sum256([]byte(text))
	return int64(binary.BigEndian.Uint64(sum[:]) >> 2) // the end of the lock, offset+1, has to fit, too
}
