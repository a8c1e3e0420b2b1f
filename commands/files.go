package commands

import (
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"unicode/utf16"
	"unicode/utf8"
)

// readTokens reads the access tokens in a file: one on each line, but not on an empty line or on one
// that begins with #. It checks that they fit into a header field of HTTP. If other users of the
// machine may read the file, a note says so.
func readTokens(ctx context.Context, file string, s Streams) ([]string, error) {
	text, err := readText(ctx, file, s.In, 256<<10)
	if err != nil {
		return nil, err
	}
	if strings.ContainsRune(text, 0) {
		return nil, fmt.Errorf("%s is not text: it holds a NUL byte", file)
	}
	var tokens []string
	n := 0
	for line := range strings.Lines(text) {
		n++
		token := strings.TrimRight(line, "\r\n")
		if token == "" || token[0] == '#' {
			continue
		}
		if i := strings.IndexFunc(token, func(r rune) bool { return r <= ' ' || r > '~' }); i >= 0 {
			return nil, fmt.Errorf("%s: line %d: byte %d is %q: a token is visible ASCII without spaces", file, n, i+1, token[i])
		}
		tokens = append(tokens, token)
	}
	if len(tokens) == 0 {
		return nil, fmt.Errorf("%s has no token: put one on a line", file)
	}
	warnReadable(s, "--token-file", file)
	return tokens, nil
}

// warnReadable warns if other users of the machine may read a file with a secret.
func warnReadable(s Streams, option, file string) {
	if info, err := os.Stat(file); err == nil && info.Mode().IsRegular() && info.Mode()&0o004 != 0 && runtime.GOOS != "windows" {
		s.warn("%s %s: every user of this machine can read it; chmod 600 it", option, shown(file))
	}
}

// readToken reads a file that has one access token.
func readToken(ctx context.Context, file string, s Streams) (string, error) {
	tokens, err := readTokens(ctx, file, s)
	switch {
	case err != nil:
		return "", err
	case len(tokens) > 1:
		return "", fmt.Errorf("%s has %d tokens: a client sends one, so give it a file with one", file, len(tokens))
	}
	return tokens[0], nil
}

// readLine reads a file of one line, and returns it without the line ends after it.
func readLine(ctx context.Context, file string, stdin io.Reader) (string, error) {
	const most = 4096
	text, err := readText(ctx, file, stdin, most)
	line := strings.TrimRight(text, "\r\n")
	switch {
	case err != nil:
		return "", err
	case line == "":
		return "", fmt.Errorf("%s is empty: it has to hold one line", file)
	case strings.ContainsAny(line, "\r\n"):
		return "", fmt.Errorf("%s holds more than one line", file)
	case strings.ContainsRune(line, 0):
		return "", fmt.Errorf("%s is not text: it holds a NUL byte", file)
	}
	return line, nil
}

// readText reads a file of at most limit bytes. The file name - means standard input. readText
// returns when ctx ends, because it would wait forever for a pipe without a writer.
func readText(ctx context.Context, file string, stdin io.Reader, limit int) (string, error) {
	var b []byte
	var err error
	read := make(chan struct{})
	go func() {
		defer close(read)
		in := stdin
		if file != "-" {
			var f *os.File
			if f, err = os.Open(file); err != nil {
				if errors.Is(err, fs.ErrNotExist) {
					err = fmt.Errorf("%w; make the file, or name another", err)
				}
				return
			}
			defer f.Close()
			if info, statErr := f.Stat(); statErr == nil && info.IsDir() {
				err = fmt.Errorf("%s is a directory: name a file in it", file)
				return
			}
			in = f
		}
		b, err = io.ReadAll(io.LimitReader(in, int64(limit)+1))
	}()
	select {
	case <-read:
	case <-ctx.Done():
		return "", context.Cause(ctx)
	}
	if err == nil && len(b) > limit {
		err = fmt.Errorf("%s holds more than %d bytes", file, limit)
	}
	if err != nil {
		return "", err
	}
	text, ok := decodeText(b)
	if !ok {
		return "", fmt.Errorf("%s is damaged: it begins with the byte order mark of UTF-16, but is not UTF-16; save it as UTF-8", file)
	}
	return text, nil
}

// decodeText removes the byte order mark that some editors write. If the mark says UTF-16, which
// Notepad and PowerShell write, decodeText converts the text to UTF-8. It returns false if the text
// is not valid UTF-16.
func decodeText(b []byte) (string, bool) {
	const mark = "\ufeff"
	var order binary.ByteOrder = binary.BigEndian
	switch text := string(b); {
	case strings.HasPrefix(text, "\xff\xfe"):
		order = binary.LittleEndian
	case strings.HasPrefix(text, "\xfe\xff"):
	default:
		return strings.TrimLeft(text, mark), true
	}
	units := make([]uint16, len(b)/2)
	for i := range units {
		units[i] = order.Uint16(b[2*i:])
	}
	text := strings.TrimLeft(string(utf16.Decode(units)), mark)
	return text, len(b)%2 == 0 && !strings.ContainsRune(text, utf8.RuneError)
}

// readSmall reads the first KiB of a regular file. It refuses other files, because it could wait
// forever for a pipe.
func readSmall(file string) (string, error) {
	info, err := os.Stat(file)
	if err != nil {
		return "", err
	}
	if !info.Mode().IsRegular() {
		return "", fmt.Errorf("%s is not a regular file", file)
	}
	f, err := os.Open(file)
	if err != nil {
		return "", err
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, 1<<10))
	return string(text), err
}

// writeFile replaces a file in one step, so a script that waits for the file never reads a part of
// it. It writes to a pipe, a device or any other file that is not regular, and does not replace it. A
// new file has the permissions perm.
//
// It follows links: see followLinks.
func writeFile(name, text string, perm os.FileMode) error {
	target, err := followLinks(name)
	if err != nil {
		return err
	}
	if info, err := os.Stat(target); err == nil && !info.Mode().IsRegular() {
		f, err := os.OpenFile(target, os.O_WRONLY, 0)
		if err != nil {
			return err
		}
		_, err = f.WriteString(text)
		return cmp.Or(err, f.Close())
	}
	f, err := createTemp(filepath.Dir(target), tempPrefix, perm)
	if err != nil {
		return err
	}
	temp := f.Name()
	_, err = f.WriteString(text)
	if err = cmp.Or(err, f.Close()); err == nil {
		err = os.Rename(temp, target)
	}
	if err != nil {
		_ = os.Remove(temp)
	}
	return err
}

// followLinks returns the file to which a link leads, or name itself. The file need not exist.
//
// It follows a link only if this user or root has made it. In a directory for all users, such as /tmp,
// another user's link may lead to a file that only this user can replace.
func followLinks(name string) (string, error) {
	for range 40 { // as many as Linux follows
		link, err := os.Readlink(name)
		if err != nil { // this is no link
			return name, nil
		}
		if info, err := os.Lstat(name); err == nil && !isOwn(info) && !isRoots(info) {
			return "", errors.New("another user has made this link; remove it, or name another file")
		}
		if !filepath.IsAbs(link) {
			link = filepath.Join(filepath.Dir(name), link)
		}
		name = link
	}
	return "", errors.New("this link leads to itself; remove it, or name another file")
}

// createTemp creates a file that the caller writes and then renames. The name of the file is random,
// because a killed process may have left another one. It is short even if the final name has the
// greatest possible length. [os.CreateTemp] would not let other users read the file, but perm may.
func createTemp(dir, prefix string, perm os.FileMode) (*os.File, error) {
	name := filepath.Join(dir, fmt.Sprintf("%s%08x", prefix, rand.Uint32()))
	return os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, perm)
}

const tempPrefix = ".ntrack-"
