package commands

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
)

// A selfFile tells the child its own endpoint as the tracker sees it, once that is known. It is in
// a directory for this user alone, which stays locked for as long as this process lives. A nil
// selfFile is none.
type selfFile struct {
	dir, text string
	lock      *os.File // nil where there are no locks
}

const (
	selfPrefix = "ntrack-self-"
	selfName   = "self"
)

func newSelfFile() (*selfFile, error) {
	for {
		dir, err := os.MkdirTemp("", selfPrefix)
		if err != nil {
			return nil, err
		}
		// Another ntrack that tidies may come in between, and takes what nobody has locked.
		lock, err := lockDir(dir)
		if !isLost(err) {
			return &selfFile{dir: dir, lock: lock}, nil
		}
		_ = os.Remove(dir)
	}
}

func (f *selfFile) path() string {
	if f == nil {
		return ""
	}
	return filepath.Join(f.dir, selfName)
}

func (f *selfFile) write(you []netip.AddrPort) error {
	var text strings.Builder
	for _, a := range you {
		fmt.Fprintln(&text, a)
	}
	if f == nil || text.String() == f.text {
		return nil
	}
	f.text = text.String()
	return writeFile(f.path(), f.text, 0o600)
}

func (f *selfFile) remove() {
	if f == nil {
		return
	}
	_ = os.RemoveAll(f.dir)
	if f.lock != nil {
		_ = f.lock.Close()
	}
}
