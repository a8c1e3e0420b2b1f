package commands

import (
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"os"
	"strings"
	"unicode/utf16"
	"unicode/utf8"

	"github.com/urfave/cli/v2"
)

// readToken reads an access token, which has to fit into a header field.
func readToken(ctx context.Context, file string, stdin io.Reader) (string, error) {
	token, err := readLine(ctx, file, stdin)
	if i := strings.IndexFunc(token, func(r rune) bool { return r <= ' ' || r > '~' }); err == nil && i >= 0 {
		return "", fmt.Errorf("%s: byte %d of the token is %q: visible ASCII without spaces is allowed", file, i, token[i])
	}
	return token, err
}

// readLine reads a file of one line. Line ends after it do not belong to it.
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

// readText reads a file of at most that many bytes, - for standard input. It gives up when ctx
// ends: nobody may be at the other end of a pipe.
func readText(ctx context.Context, file string, stdin io.Reader, most int) (string, error) {
	var b []byte
	var err error
	read := make(chan struct{})
	go func() {
		defer close(read)
		in := stdin
		if file != "-" {
			var f *os.File
			if f, err = os.Open(file); err != nil {
				return
			}
			defer f.Close()
			in = f
		}
		b, err = io.ReadAll(io.LimitReader(in, int64(most)+1))
	}()
	select {
	case <-read:
	case <-ctx.Done():
		return "", context.Cause(ctx)
	}
	if err == nil && len(b) > most {
		err = fmt.Errorf("%s holds more than %d bytes", file, most)
	}
	if err != nil {
		return "", err
	}
	text, ok := decodeText(b)
	if !ok {
		return "", fmt.Errorf("%s is damaged: its byte order mark says UTF-16, and it is not; save it as UTF-8", file)
	}
	return text, nil
}

// decodeText is a text without the byte order mark that some editors write, and in UTF-8 where that
// mark says that it is UTF-16, as Notepad and PowerShell write it.
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

// readOnce refuses two options that would both read standard input: the second would find nothing.
func readOnce(c *cli.Context) error {
	first := ""
	for _, name := range []string{"key-file", "token-file", "ca"} {
		if file := c.String(name); file != "-" && file != "/dev/stdin" {
			continue
		}
		if first != "" {
			return usage(c, "--%s and --%s both read standard input, which is there once: name a file for one", first, name)
		}
		first = name
	}
	return nil
}
