package commands

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"

	"ntrack/announce"
	"ntrack/announce/wire"
)

// keepSecret gives the client the secret of this user on this machine, where there is a classic
// tracker: some of them take a peer out only by the id that it was announced by.
func (o *client) keepSecret(s Streams) {
	if !slices.ContainsFunc(o.trackers, announce.Tracker.Classic) {
		return
	}
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

// stateDir is the directory for what ntrack remembers of this user. It makes the directory, but no
// home: a user that has none is to have none.
func stateDir() (dir string, err error) {
	if dir = os.Getenv("XDG_STATE_HOME"); !filepath.IsAbs(dir) { // else it says nothing, by the specification
		var home string
		switch runtime.GOOS {
		case "darwin":
			dir, err = os.UserConfigDir()
			home = filepath.Dir(dir)
		case "windows":
			dir, err = os.UserCacheDir() // the other one roams: it follows the user to other machines
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

// readSecret is the secret in a file of dir, which it makes where there is none. Processes that
// start at once get the same one. Where the file is damaged, another takes its place, whose name
// follows from what is left of the first: so all find the same one again.
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

// drawSecret puts a new secret into a file that appears with all of it, or not at all. One that is
// there already is an error.
func drawSecret(file string) error {
	secret := make([]byte, secretSize)
	_, _ = rand.Read(secret)
	f, err := os.CreateTemp(filepath.Dir(file), tempPrefix) // for this user only
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

// readSmall reads the beginning of a file. It waits for nobody, as reading a pipe would.
func readSmall(file string) (string, error) {
	info, err := os.Stat(file)
	if err != nil {
		return "", err
	}
	if !info.Mode().IsRegular() {
		return "", fmt.Errorf("%s is no regular file", file)
	}
	f, err := os.Open(file)
	if err != nil {
		return "", err
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, 1<<10))
	return string(text), err
}

// bind makes another secret of one, for this machine alone.
func bind(secret []byte, machine []string) []byte {
	mac := hmac.New(sha256.New, secret)
	for _, part := range machine {
		fmt.Fprintf(mac, "%q\n", part)
	}
	return mac.Sum(nil)
}
