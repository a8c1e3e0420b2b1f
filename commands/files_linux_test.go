package commands

import (
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// writeFile follows the links of this user, and not those of another one.
func TestWriteFileLinks(t *testing.T) {
	dir := t.TempDir()
	target, link := filepath.Join(dir, "target"), filepath.Join(dir, "link")
	if err := os.Symlink(target, link); err != nil {
		t.Fatal(err)
	}
	for _, text := range []string{"first", "second"} { // the first makes the file
		if err := writeFile(link, text, 0o600); err != nil {
			t.Error(err)
		}
		if b, err := os.ReadFile(target); err != nil || string(b) != text {
			t.Errorf("the file has %q, %v", b, err)
		}
	}
	if err := writeFile("/dev/fd/nosuch", "x", 0o600); err == nil || strings.Contains(err.Error(), "another user") {
		t.Errorf("a link of root: %v", err) // /dev/fd is one
	}
	if os.Geteuid() != 0 {
		return // only root can give a link to another user
	}
	if err := os.Lchown(link, 1, 1); err != nil {
		t.Fatal(err)
	}
	if err := writeFile(link, "third", 0o600); err == nil || !strings.Contains(err.Error(), "another user has made this link") {
		t.Errorf("another user's link: %v", err)
	}
	if b, err := os.ReadFile(target); err != nil || string(b) != "second" {
		t.Errorf("the file behind another user's link has %q, %v", b, err)
	}
}

// A Unix socket is closed to other users from its first moment, whatever the umask is.
func TestUnixSocketMode(t *testing.T) {
	old := syscall.Umask(0)
	defer syscall.Umask(old)
	path := filepath.Join(t.TempDir(), "socket")
	l, err := unixListener(path)
	if err != nil {
		t.Fatal(err)
	}
	defer func(l net.Listener) { _ = l.Close() }(l)
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != unixMode {
		t.Errorf("before Chmod: %v, %v", info.Mode(), err)
	}
}
