package certs_test

import (
	"bytes"
	"context"
	"encoding/pem"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"ntrack/commands/certs"
	"ntrack/commands/commandstest"
)

// A pair is a certificate and its key in two files.
type pair struct {
	t         *testing.T
	cert, key string
}

func newPair(t *testing.T) pair {
	dir := t.TempDir()
	p := pair{t, filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")}
	cert, key := p.make(time.Now().Add(-time.Hour), time.Now().Add(90*24*time.Hour))
	p.write(p.cert, cert)
	p.write(p.key, key)
	return p
}

func (p pair) make(from, to time.Time) (cert, key []byte) {
	p.t.Helper()
	cert, key, err := commandstest.Certificate(from, to)
	if err != nil {
		p.t.Fatal(err)
	}
	return cert, key
}

func (p pair) write(file string, text []byte) {
	p.t.Helper()
	if err := os.WriteFile(file, text, 0o600); err != nil {
		p.t.Fatal(err)
	}
}

func (p pair) read(file string) []byte {
	p.t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		p.t.Fatal(err)
	}
	return text
}

// A logBuffer has what was logged since the last call of lines.
type logBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (b *logBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

func (b *logBuffer) logger() *slog.Logger {
	return slog.New(slog.NewTextHandler(b, &slog.HandlerOptions{ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
		if a.Key == slog.TimeKey {
			return slog.Attr{}
		}
		return a
	}}))
}

// lines waits until nothing more happens at this time, and returns what was logged.
func (b *logBuffer) lines() []string {
	synctest.Wait()
	b.mu.Lock()
	defer b.mu.Unlock()
	var list []string
	for line := range strings.Lines(b.buf.String()) {
		list = append(list, strings.TrimSpace(line))
	}
	b.buf.Reset()
	return list
}

// expect fails the test unless one line was logged, which has all of these texts, or none without
// texts.
func (b *logBuffer) expect(t *testing.T, texts ...string) {
	t.Helper()
	lines := b.lines()
	want := 0
	if len(texts) > 0 {
		want = 1
	}
	if len(lines) != want {
		t.Errorf("logged %d lines, want %d with %q:\n%s", len(lines), want, texts, strings.Join(lines, "\n"))
		return
	}
	for _, text := range texts {
		if !strings.Contains(lines[0], text) {
			t.Errorf("logged %q, which has no %q", lines[0], text)
		}
	}
}

func (p pair) load() *certs.Files {
	p.t.Helper()
	f, err := certs.Load(p.cert, p.key)
	if err != nil {
		p.t.Fatal(err)
	}
	return f
}

// serves says whether f serves this certificate, which is in PEM.
func serves(t *testing.T, f *certs.Files, cert []byte) bool {
	t.Helper()
	got, err := f.Certificate(nil)
	block, _ := pem.Decode(cert)
	if err != nil || block == nil {
		t.Fatal(err, block)
	}
	return bytes.Equal(got.Certificate[0], block.Bytes)
}

func TestLoadRefuses(t *testing.T) {
	for _, c := range []struct {
		name   string
		change func(p pair)
		want   string
	}{
		{"no certificate", func(p pair) { os.Remove(p.cert) }, "--tls-cert: stat CERT: no such file or directory; make the file, or name another"},
		{"no key", func(p pair) { os.Remove(p.key) }, "--tls-key: stat KEY: no such file or directory; make the file, or name another"},
		{"a directory", func(p pair) { os.Remove(p.key); os.Mkdir(p.key, 0o700) }, "--tls-key: KEY is not a regular file"},
		{"not PEM", func(p pair) { p.write(p.cert, []byte("nonsense")) }, "--tls-cert: CERT holds no certificate in PEM, "},
		{"half a certificate", func(p pair) { b := p.read(p.cert); p.write(p.cert, b[:len(b)/2]) }, "--tls-cert: CERT holds no certificate in PEM, "},
		{"half a key", func(p pair) { b := p.read(p.key); p.write(p.key, b[:len(b)/2]) }, "--tls-key: KEY holds no private key in PEM, "},
		{"swapped", func(p pair) { c, k := p.read(p.cert), p.read(p.key); p.write(p.cert, k); p.write(p.key, c) }, "--tls-cert: CERT holds no certificate in PEM, "},
		{"a passphrase", func(p pair) {
			p.write(p.key, bytes.ReplaceAll(p.read(p.key), []byte("PRIVATE"), []byte("ENCRYPTED PRIVATE")))
		}, "--tls-key: the key in KEY has a passphrase, which ntrack cannot ask for; `openssl pkey` removes it"},
		{"another key", func(p pair) { _, k := p.make(time.Now(), time.Now().Add(time.Hour)); p.write(p.key, k) },
			"--tls-key: the key in KEY belongs to another certificate than the first one in CERT"},
		{"expired", func(p pair) {
			c, k := p.make(time.Now().Add(-time.Hour), time.Now().Add(-time.Minute))
			p.write(p.cert, c)
			p.write(p.key, k)
		}, "--tls-cert: the certificate in CERT has expired, on "},
		{"not valid yet", func(p pair) {
			c, k := p.make(time.Now().Add(time.Hour), time.Now().Add(2*time.Hour))
			p.write(p.cert, c)
			p.write(p.key, k)
		}, "--tls-cert: the certificate in CERT is valid from "},
		{"too large", func(p pair) { p.write(p.cert, make([]byte, 1<<20+1)) }, "--tls-cert: CERT holds more than 1048576 bytes"},
	} {
		t.Run(c.name, func(t *testing.T) {
			if runtime.GOOS == "windows" && strings.HasPrefix(c.name, "no ") {
				c.want = c.want[:strings.Index(c.want, ":")] // the rest is the system's
			}
			p := newPair(t)
			c.change(p)
			_, err := certs.Load(p.cert, p.key)
			if err == nil {
				t.Fatal("no error")
			}
			got := strings.NewReplacer(p.cert, "CERT", p.key, "KEY").Replace(err.Error())
			if !strings.HasPrefix(got, c.want) || strings.Contains(got, "\n") {
				t.Errorf("%s\nwant %s", got, c.want)
			}
		})
	}
}

// A change is noticed within a minute. A pair that is not valid changes nothing, and is logged once.
func TestFilesChange(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPair(t)
		f := p.load()
		first := p.read(p.cert)
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		var log logBuffer
		go f.Run(ctx, log.logger())
		minute := func() {
			time.Sleep(time.Minute)
			synctest.Wait()
		}
		minute()
		log.expect(t)

		second, secondKey := p.make(time.Now(), time.Now().Add(90*24*time.Hour))
		p.write(p.cert, second[:len(second)/2])
		minute()
		log.expect(t, "level=WARN", "holds no certificate in PEM", "; the certificate stays as it was")
		p.write(p.cert, second)
		minute()
		log.expect(t, "level=WARN", "belongs to another certificate", "; the certificate stays as it was")
		for range 10 {
			minute()
		}
		log.expect(t)
		if !serves(t, f, first) {
			t.Error("the first certificate is not served any longer")
		}
		p.write(p.key, secondKey)
		minute()
		log.expect(t, "level=INFO", "has been read again from "+p.cert, "valid until")
		if !serves(t, f, second) {
			t.Error("the second certificate is not served")
		}

		old, oldKey := p.make(time.Now().Add(-time.Hour), time.Now().Add(-time.Minute))
		p.write(p.cert, old)
		p.write(p.key, oldKey)
		minute()
		log.expect(t, "level=WARN", "has expired")
		os.Remove(p.cert)
		minute()
		log.expect(t, "level=WARN", "--tls-cert: stat ")
		if !serves(t, f, second) {
			t.Error("the second certificate is not served any longer")
		}
		// The same pair again is news, because the last line was about a problem.
		p.write(p.cert, second)
		p.write(p.key, secondKey)
		minute()
		log.expect(t, "level=INFO", "has been read again")

		// Reload does not wait, and always has an outcome.
		f.Reload()
		log.expect(t, "level=INFO", "SIGHUP", "has not changed")
		p.write(p.key, oldKey)
		f.Reload()
		log.expect(t, "level=WARN", "belongs to another certificate")
		f.Reload()
		log.expect(t, "level=WARN", "belongs to another certificate")
	})
}

// A certificate that expires soon is logged once a day: if it is for 8 days, then in the last 32
// hours.
func TestFilesExpire(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPair(t)
		cert, key := p.make(time.Now(), time.Now().Add(8*24*time.Hour))
		p.write(p.cert, cert)
		p.write(p.key, key)
		f := p.load()
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		var log logBuffer
		go f.Run(ctx, log.logger())
		for _, want := range [][]string{nil, nil, nil, nil, nil, nil, {"level=WARN", "expires on"}, {"level=WARN", "expires on"}, {"level=WARN", "expired on"}} {
			time.Sleep(24 * time.Hour)
			log.expect(t, want...)
		}
	})
}

func TestReadableKey(t *testing.T) {
	if runtime.GOOS == "windows" {
		return // its permissions are no bits
	}
	for mode, want := range map[os.FileMode][]string{0o604: {"level=WARN", "--tls-key", "every user can read it; run `chmod o-r`"}, 0o640: nil} {
		synctest.Test(t, func(t *testing.T) {
			p := newPair(t)
			if err := os.Chmod(p.key, mode); err != nil {
				t.Fatal(err)
			}
			f := p.load()
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			var log logBuffer
			go f.Run(ctx, log.logger())
			log.expect(t, want...)
		})
	}
}
