package commands

import (
	"cmp"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"testing"
	"time"
)

// A replaced file keeps its mode and its owner, and is a new file. The same text replaces nothing.
func TestReplacementKeeps(t *testing.T) {
	dir := t.TempDir()
	name := filepath.Join(dir, "file")
	if err := os.WriteFile(name, []byte("old"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(name, 0o646); err != nil { // more than the umask allows
		t.Fatal(err)
	}
	uid, gid := os.Geteuid(), os.Getegid()
	if uid == 0 {
		uid, gid = 12345, 12346
		if err := os.Chown(name, uid, gid); err != nil {
			t.Fatal(err)
		}
	}
	link := filepath.Join(dir, "link")
	for target, link := range map[string]string{"file": filepath.Join(dir, "second"), "second": link} {
		if err := os.Symlink(target, link); err != nil {
			t.Fatal(err)
		}
	}
	r, err := newReplacement(link)
	if err != nil {
		t.Fatal(err)
	}
	for _, step := range []struct {
		text    string
		changes bool
	}{{"old", false}, {"new", true}, {"new", false}, {"two", true}} {
		text, before := step.text, inode(t, name)
		changed, err := r.write(text)
		b, _ := os.ReadFile(name)
		if err != nil || changed != step.changes || changed != (inode(t, name) != before) || string(b) != text {
			t.Errorf("write %q: %v, %v, and the file has %q", text, changed, err, b)
		}
		info, err := os.Stat(name)
		if err != nil {
			t.Fatal(err)
		}
		if s := info.Sys().(*syscall.Stat_t); info.Mode() != 0o646 || int(s.Uid) != uid || int(s.Gid) != gid {
			t.Errorf("after %q: mode %v, owner %d, group %d", text, info.Mode(), s.Uid, s.Gid)
		}
	}
	// The link may lead to another file from now on.
	if err := cmp.Or(os.Remove(link), os.Symlink("other", link)); err != nil {
		t.Fatal(err)
	}
	if changed, err := r.write("two"); err != nil || !changed {
		t.Errorf("after the link has changed: %v, %v", changed, err)
	}
	if has := names(t, dir); !slices.Equal(has, []string{"file", "link", "other", "second"}) {
		t.Errorf("the directory has %q", has)
	}
}

// The text of a file is read up to a limit.
func TestReplacementOld(t *testing.T) {
	name := filepath.Join(t.TempDir(), "file")
	r, err := newReplacement(name)
	if err != nil {
		t.Fatal(err)
	}
	if old, err := r.old(3); old != "" || err != nil {
		t.Errorf("no file: %q, %v", old, err)
	}
	if err := os.WriteFile(name, []byte("four"), 0o600); err != nil {
		t.Fatal(err)
	}
	if old, err := r.old(4); old != "four" || err != nil {
		t.Errorf("up to 4 bytes: %q, %v", old, err)
	}
	if _, err := r.old(3); err == nil {
		t.Error("4 bytes, up to 3: no error")
	}
}

// Temporary files of killed processes are removed, and no others.
func TestReplacementTidies(t *testing.T) {
	dir := t.TempDir()
	name := filepath.Join(dir, "file")
	r, err := newReplacement(name)
	if err != nil {
		t.Fatal(err)
	}
	long := time.Now().Add(-2 * oldTemp)
	leave := func(name string, age time.Time) {
		if err := os.WriteFile(filepath.Join(dir, name), []byte("part"), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Chtimes(filepath.Join(dir, name), age, age); err != nil {
			t.Fatal(err)
		}
	}
	leave(r.begins+"0000000a", long)
	leave(r.begins+"0000000b", time.Now()) // another process writes it now
	leave(tempPrefix+"0000000c", long)     // it is not of this file
	if _, err := newReplacement(name); err != nil {
		t.Fatal(err)
	}
	if has := names(t, dir); !slices.Equal(has, slices.Sorted(slices.Values([]string{r.begins + "0000000b", tempPrefix + "0000000c"}))) {
		t.Errorf("at the start the directory has %q", has)
	}
	leave(r.begins+"0000000a", long)
	if _, err := r.write("text"); err != nil {
		t.Fatal(err)
	}
	if has := names(t, dir); len(has) != 3 || !slices.Contains(has, "file") {
		t.Errorf("after a write the directory has %q", has)
	}
}

func inode(t *testing.T, name string) uint64 {
	t.Helper()
	info, err := os.Stat(name)
	if err != nil {
		t.Fatal(err)
	}
	return info.Sys().(*syscall.Stat_t).Ino
}

func names(t *testing.T, dir string) (all []string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		all = append(all, e.Name())
	}
	return all
}
