package commands

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"hash/fnv"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// A replacement is a regular file that is replaced as a whole, again and again, while other programs
// read it: FILE of `ntrack watch --to`. It keeps its mode and its owner.
type replacement struct {
	name   string
	target string // the file itself, if name is a link; a link may change at any time
	begins string // what the names of its temporary files begin with
}

// newReplacement tries whether the file can be replaced, without a change of it.
func newReplacement(name string) (*replacement, error) {
	r := &replacement{name: name}
	if err := r.follow(); err != nil {
		return nil, err
	}
	r.tidy()
	temp, err := r.create()
	if err != nil {
		return nil, err
	}
	return r, cmp.Or(temp.Close(), os.Remove(temp.Name()))
}

// follow finds the target.
func (r *replacement) follow() (err error) {
	if r.target, err = followLinks(r.name); err != nil {
		return err
	}
	h := fnv.New32a()
	_, _ = io.WriteString(h, filepath.Base(r.target))
	r.begins = fmt.Sprintf("%s%08x-", tempPrefix, h.Sum32())
	return nil
}

// old returns the text that the file has now. A file that does not exist has none.
func (r *replacement) old(most int64) (string, error) {
	f, err := os.Open(r.target)
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil
	}
	if err != nil {
		return "", err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, most+1))
	if err == nil && int64(len(b)) > most {
		err = fmt.Errorf("it has more than %d MiB", most>>20)
	}
	return string(b), err
}

// write gives the file a new text in one step, and reports whether it had another one. Power may fail
// at any time: then the file has the old text or the new one. It may be the old one for as long as the
// system keeps a rename in memory. That does no harm, because the watch writes the file again when it
// starts. So the directory is not synced, which costs as much as the file.
func (r *replacement) write(text string) (changed bool, err error) {
	if err := r.follow(); err != nil {
		return false, err
	}
	if r.has(text) {
		return false, nil
	}
	r.tidy()
	temp, err := r.create()
	if err != nil {
		return false, err
	}
	_, err = temp.WriteString(text)
	err = cmp.Or(err, temp.Sync())
	if err = cmp.Or(err, temp.Close()); err == nil {
		err = os.Rename(temp.Name(), r.target)
	}
	if err != nil {
		_ = os.Remove(temp.Name())
	}
	return err == nil, err
}

// has reports whether the file has exactly this text.
func (r *replacement) has(text string) bool {
	info, err := os.Stat(r.target)
	if err != nil || info.Size() != int64(len(text)) {
		return false
	}
	b, err := os.ReadFile(r.target)
	return err == nil && bytes.Equal(b, []byte(text))
}

// create creates a file beside the target, with its mode and its owner.
func (r *replacement) create() (*os.File, error) {
	perm := fs.FileMode(0o644) // of a new file, before the umask
	old, err := os.Stat(r.target)
	switch {
	case err == nil && old.IsDir():
		return nil, errors.New("it is a directory: name a file in it")
	case err == nil && !old.Mode().IsRegular():
		return nil, errors.New("it is not a regular file")
	case err == nil:
		perm = old.Mode().Perm()
	case !errors.Is(err, fs.ErrNotExist):
		return nil, err
	}
	temp, err := createTemp(filepath.Dir(r.target), r.begins, perm)
	if err != nil || old == nil {
		return temp, err
	}
	if err = giveTo(temp, old); err == nil {
		err = temp.Chmod(perm)
	}
	if err != nil {
		_ = temp.Close()
		_ = os.Remove(temp.Name())
		return nil, fmt.Errorf("its owner or mode cannot be kept: %s", reasonOf(err))
	}
	return temp, nil
}

// oldTemp is the age from which a temporary file is that of a process that was killed: no process
// needs one for that long.
const oldTemp = time.Minute

// tidy removes the temporary files that killed processes have left.
func (r *replacement) tidy() {
	dir := filepath.Dir(r.target)
	entries, _ := os.ReadDir(dir)
	for _, e := range entries {
		if !strings.HasPrefix(e.Name(), r.begins) {
			continue
		}
		if info, err := e.Info(); err == nil && info.Mode().IsRegular() && time.Since(info.ModTime()) > oldTemp {
			_ = os.Remove(filepath.Join(dir, e.Name()))
		}
	}
}
