//go:build unix

package commands

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"ntrack/announce"
)

// members is a file of this user on this machine, in which every process that stays on a classic
// tracker holds a lock. Each endpoint there has a byte of its own, though none is ever written.
// Such a tracker knows one peer for all that announce an endpoint: only the last of them may leave.
// The locks end with their process however that ends.
type members struct {
	file *os.File

	mu   sync.Mutex
	last map[int64]bool // of those that have asked
}

// openMembers opens the file, which it makes where there is none.
func openMembers() (*members, error) {
	name := filepath.Join(os.TempDir(), fmt.Sprintf("ntrack-members-%d", os.Geteuid()))
	f, err := os.OpenFile(name, os.O_RDWR|os.O_CREATE|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return nil, err
	}
	info, err := f.Stat()
	if err == nil {
		if owner, ok := info.Sys().(*syscall.Stat_t); !ok || int(owner.Uid) != os.Geteuid() || !info.Mode().IsRegular() {
			err = fmt.Errorf("%s is not this user's file", name)
		}
	}
	if err != nil {
		_ = f.Close()
		return nil, err
	}
	return &members{file: f, last: make(map[int64]bool)}, nil
}

// enter is called before an endpoint is announced. It waits, but not for long, while a last member
// leaves, and returns whether there are others.
func (m *members) enter(ctx context.Context, at int64) (others bool) {
	for end := time.Now().Add(leaveTime); m.lock(unix.F_RDLCK, at) != nil && time.Now().Before(end); {
		select {
		case <-ctx.Done():
			return false
		case <-time.After(10 * time.Millisecond):
		}
	}
	other := unix.Flock_t{Type: unix.F_WRLCK, Whence: io.SeekStart, Start: at, Len: 1}
	err := unix.FcntlFlock(m.file.Fd(), unix.F_GETLK, &other)
	return err == nil && other.Type != unix.F_UNLCK
}

// leave is called before an endpoint leaves, and returns whether others stay. Of several that leave
// at once one gets the lock, which it keeps until it is closed.
func (m *members) leave(at int64) (others bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	last, asked := m.last[at]
	if !asked {
		_ = m.lock(unix.F_UNLCK, at)
		err := m.lock(unix.F_WRLCK, at)
		last = err != unix.EAGAIN && err != unix.EACCES
		m.last[at] = last
	}
	return !last
}

func (m *members) lock(how int16, at int64) error {
	return unix.FcntlFlock(m.file.Fd(), unix.F_SETLK, &unix.Flock_t{Type: how, Whence: io.SeekStart, Start: at, Len: 1})
}

// stayTogether arranges with the other processes of this user on this machine that stay with the
// same endpoint. The caller must call what it returns once the client has left.
func (o *client) stayTogether(ctx context.Context, s Streams, r announce.Request) (end func()) {
	if r.Port == 0 {
		r.Port = o.From.Port()
	}
	var m *members
	for _, t := range o.trackers {
		if r.Port == 0 || !t.Classic() {
			continue // a port that the system chooses is no other's; native trackers count their holds
		}
		if m == nil {
			var err error
			if m, err = openMembers(); err != nil {
				return func() {}
			}
		}
		if m.enter(ctx, o.place(t, r)) {
			s.note("another process announces port %d under this KEY to %s, too: there you are one peer", r.Port, t.HostPort())
		}
	}
	if m == nil {
		return func() {}
	}
	o.Shared = func(t announce.Tracker, r announce.Request) bool { return m.leave(o.place(t, r)) }
	return func() { _ = m.file.Close() }
}

// place is the byte of an endpoint of this machine: one for each, as far as chance allows.
func (o *client) place(t announce.Tracker, r announce.Request) int64 {
	text := fmt.Sprintf("%q %q %d %v %q", t.String(), r.Key.Bytes(), r.Port, o.From.Addr(), machine())
	sum := sha256.Sum256([]byte(text))
	return int64(binary.BigEndian.Uint64(sum[:]) >> 2) // a file ends before 1<<63
}
