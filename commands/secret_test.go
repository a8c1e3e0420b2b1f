package commands

import (
	"bytes"
	"encoding/hex"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
)

// Every process gets the same secret, even if they ask at the same time or the file is damaged.
func TestReadSecret(t *testing.T) {
	good := strings.Repeat("5a", secretSize)
	for about, content := range map[string]string{
		"no file":        "none",
		"an empty file":  "",
		"a short one":    good[2:] + "\n",
		"a long one":     good + "5a\n",
		"no hex":         "z" + good[1:],
		"zeros":          strings.Repeat("\x00", 65),
		"a large file":   strings.Repeat("5a", 1<<20),
		"two secrets":    good + "\n" + good + "\n",
		"a good one":     good + "\n",
		"no line end":    good,
		"a Windows line": good + "\r\n",
	} {
		dir := t.TempDir()
		if content != "none" {
			if err := os.WriteFile(filepath.Join(dir, "secret"), []byte(content), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		var all [16][]byte
		var wg sync.WaitGroup
		for i := range all {
			wg.Go(func() {
				var err error
				if all[i], err = readSecret(dir); err != nil {
					t.Errorf("%s: %v", about, err)
				}
			})
		}
		wg.Wait()
		for _, secret := range all {
			if len(secret) != secretSize || !bytes.Equal(secret, all[0]) {
				t.Errorf("%s: one process has %x, another %x", about, all[0], secret)
			}
		}
		if read := hex.EncodeToString(all[0]) == good; read != (strings.TrimSpace(content) == good) {
			t.Errorf("%s: the secret is %x", about, all[0])
		}
		if again, err := readSecret(dir); err != nil || !bytes.Equal(again, all[0]) {
			t.Errorf("%s: read again, the secret is %x, %v", about, again, err)
		}
		files, err := os.ReadDir(dir)
		if err != nil || len(files) > 2 {
			t.Errorf("%s: the directory has %v, %v", about, files, err)
		}
		for _, f := range files {
			if info, err := f.Info(); err != nil || runtime.GOOS != "windows" && info.Mode() != 0o600 {
				t.Errorf("%s: %s has mode %v", about, f.Name(), info.Mode())
			}
		}
	}
	one, err1 := readSecret(t.TempDir())
	two, err2 := readSecret(t.TempDir())
	if err1 != nil || err2 != nil || bytes.Equal(one, two) {
		t.Errorf("two users have the secrets %x, %v, and %x, %v", one, err1, two, err2)
	}
}

// If the secret can neither be read nor written, readSecret returns an error.
func TestNoSecret(t *testing.T) {
	dir := t.TempDir()
	secret := filepath.Join(dir, "secret")
	check := func(about, dir, want string) {
		t.Helper()
		if got, err := readSecret(dir); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %x, %v, want an error with %q", about, got, err, want)
		}
	}
	check("no directory", filepath.Join(dir, "missing"), "missing")
	if err := os.Mkdir(secret, 0o700); err != nil {
		t.Fatal(err)
	}
	check("a directory", dir, "not a regular file")
	if err := os.Remove(secret); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("nowhere", secret); err == nil { // Windows may refuse it
		check("a link to nowhere", dir, "secret")
		if err := os.Remove(secret); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(secret, []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := readSecret(dir); err != nil {
		t.Fatal(err)
	}
	files, err := filepath.Glob(secret + "-*")
	if err != nil || len(files) != 1 {
		t.Fatalf("the files beside the damaged one are %v, %v", files, err)
	}
	if err := os.WriteFile(files[0], []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	check("two damaged files", dir, "remove it")
}

// XDG_STATE_HOME or HOME says where the secret is. A missing home directory is not created.
func TestStateDir(t *testing.T) {
	if runtime.GOOS == "windows" || runtime.GOOS == "darwin" {
		t.Skip("the directories of other systems have other names")
	}
	home := t.TempDir()
	state, missing := filepath.Join(home, "state"), filepath.Join(home, "missing")
	for _, tt := range []struct{ xdg, home, want string }{
		{"", home, home + "/.local/state/ntrack"},
		{"relative", home, home + "/.local/state/ntrack"},
		{state, home, state + "/ntrack"},
		{state, "", state + "/ntrack"},
		{state, missing, state + "/ntrack"},
		{"", missing, ""},
		{"", "", ""},
		{"/dev/null", home, ""},
	} {
		t.Setenv("XDG_STATE_HOME", tt.xdg)
		t.Setenv("HOME", tt.home)
		got, err := stateDir()
		if tt.want == "" && err == nil || tt.want != "" && (err != nil || got != tt.want) {
			t.Errorf("XDG_STATE_HOME %q, HOME %q: %s, %v, want %q", tt.xdg, tt.home, got, err, tt.want)
		}
		if info, err := os.Stat(got); tt.want != "" && (err != nil || info.Mode() != os.ModeDir|0o700) {
			t.Errorf("%s: %v, %v", got, info, err)
		}
	}
	if _, err := os.Stat(missing); err == nil {
		t.Error("stateDir has created a home directory")
	}
}

// Two machines whose texts differ in any way have different secrets, even if they share the file.
func TestForMachine(t *testing.T) {
	secret := []byte("s")
	seen := make(map[string]bool)
	for _, machine := range [][]string{nil, {""}, {"", ""}, {"a"}, {"a", "b"}, {"b", "a"}, {"ab"}, {"a\n", "b"}, {"a", "\nb"}} {
		seen[string(forMachine(secret, machine))] = true
	}
	if len(seen) != 9 {
		t.Errorf("9 machines have %d secrets", len(seen))
	}
	if bytes.Equal(forMachine(secret, nil), forMachine([]byte("t"), nil)) {
		t.Error("two secrets give one machine the same secret")
	}
	if bytes.Contains(forMachine(secret, nil), secret) {
		t.Error("the secret of a machine contains the secret in the file")
	}
	one, two := machine(), machine()
	if strings.Join(one, "|") != strings.Join(two, "|") || strings.Join(one, "") == "" {
		t.Errorf("this machine is %q, and then %q", one, two)
	}
	if runtime.GOOS == "linux" && (len(one[3]) < 30 || !strings.HasPrefix(one[4], "net:[")) {
		t.Errorf("this machine is %q, without a boot_id or a network", one)
	}
}
