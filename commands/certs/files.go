// Package certs has the certificates of a tracker that speaks TLS. They come from two files ([Load]),
// which it reads again when they change, or from an authority by ACME ([Authority]).
package certs

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"runtime"
	"strings"
	"sync/atomic"
	"time"
)

const (
	// pollInterval is how often the files are read, to see whether they have changed.
	pollInterval = 30 * time.Second
	// maxFile is the most bytes of a file. A chain of certificates has some thousand.
	maxFile = 1 << 20
)

// Files are a certificate and its key in two files.
type Files struct {
	certFile, keyFile string
	current           atomic.Pointer[tls.Certificate]
	reload            chan struct{}

	// Only Run uses these.
	pair    [2][]byte // what the files held when they were read last
	problem string    // why the files are not in use; "" if they are
	expiry  expiryLog
}

// Load reads a certificate and its key, both in PEM. The first certificate of the file is the
// tracker's own; the others lead to its authority. Load fails if the certificate is not valid now.
func Load(certFile, keyFile string) (*Files, error) {
	f := &Files{certFile: certFile, keyFile: keyFile, reload: make(chan struct{}, 1)}
	pair, err := f.read()
	if err != nil {
		return nil, err
	}
	cert, err := f.parse(pair)
	if err != nil {
		return nil, err
	}
	f.pair = pair
	f.current.Store(cert)
	return f, nil
}

// Certificate is for [tls.Config.GetCertificate].
func (f *Files) Certificate(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	return f.current.Load(), nil
}

// Names returns the names of hosts in the certificate. It may have none.
func (f *Files) Names() []string { return f.current.Load().Leaf.DNSNames }

// Reload makes Run read the files at once, and log what came of it.
func (f *Files) Reload() {
	select {
	case f.reload <- struct{}{}:
	default: // it is about to read them
	}
}

// Run uses the files again whenever they have changed, until ctx ends. If they are not a valid pair,
// it logs why, once for each cause, and the tracker keeps the certificate that it has. Run also warns
// if other users can read the key, and once a day if the certificate expires soon.
func (f *Files) Run(ctx context.Context, log *slog.Logger) {
	if info, err := os.Stat(f.keyFile); err == nil && runtime.GOOS != "windows" && info.Mode()&0o004 != 0 {
		log.Warn(fmt.Sprintf("--tls-key %s: every user can read it; run `chmod o-r` on it", f.keyFile))
	}
	poll := time.NewTicker(pollInterval)
	defer poll.Stop()
	for {
		f.expiry.check(log, "the certificate in "+f.certFile, f.current.Load().Leaf, "")
		select {
		case <-ctx.Done():
			return
		case <-poll.C:
			f.update(log, false)
		case <-f.reload:
			f.update(log, true)
		}
	}
}

// update reads the files, and uses them if they have changed. If asked is set, it logs the outcome
// even if nothing has changed.
func (f *Files) update(log *slog.Logger, asked bool) {
	pair, err := f.read()
	changed := err == nil && (!bytes.Equal(pair[0], f.pair[0]) || !bytes.Equal(pair[1], f.pair[1]))
	if err == nil && !changed && f.problem == "" {
		if asked {
			log.Info(fmt.Sprintf("SIGHUP: the certificate in %s has not changed", f.certFile))
		}
		return
	}
	var cert *tls.Certificate
	if err == nil {
		cert, err = f.parse(pair)
	}
	if err != nil {
		if asked || err.Error() != f.problem {
			log.Warn(err.Error() + "; the certificate stays as it was")
		}
		f.problem = err.Error()
		return
	}
	f.pair, f.problem = pair, ""
	f.current.Store(cert)
	log.Info(fmt.Sprintf("the certificate has been read again from %s; it is valid until %s", f.certFile, day(cert.Leaf.NotAfter)))
}

func (f *Files) read() (pair [2][]byte, err error) {
	for i, option := range [2]struct{ name, file string }{{"--tls-cert", f.certFile}, {"--tls-key", f.keyFile}} {
		if pair[i], err = readFile(option.file); err != nil {
			return pair, fmt.Errorf("%s: %w", option.name, err)
		}
	}
	return pair, nil
}

// readFile reads a regular file. It could wait forever for a pipe.
func readFile(name string) ([]byte, error) {
	info, err := os.Stat(name)
	if errors.Is(err, fs.ErrNotExist) {
		err = fmt.Errorf("%w; make the file, or name another", err)
	}
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("%s is not a regular file", name)
	}
	file, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	b, err := io.ReadAll(io.LimitReader(file, maxFile+1))
	if err == nil && len(b) > maxFile {
		err = fmt.Errorf("%s holds more than %d bytes", name, maxFile)
	}
	return b, err
}

// parse makes a certificate of the content of both files. The error names the option that is wrong.
func (f *Files) parse(pair [2][]byte) (*tls.Certificate, error) {
	switch {
	case !hasBlock(pair[0], func(kind string) bool { return kind == "CERTIFICATE" }):
		return nil, fmt.Errorf("--tls-cert: %s holds no certificate in PEM, which begins with -----BEGIN CERTIFICATE-----", f.certFile)
	case hasBlock(pair[1], func(kind string) bool { return kind == "ENCRYPTED PRIVATE KEY" }):
		return nil, fmt.Errorf("--tls-key: the key in %s has a passphrase, which ntrack cannot ask for; `openssl pkey` removes it", f.keyFile)
	case !hasBlock(pair[1], func(kind string) bool { return strings.HasSuffix(kind, "PRIVATE KEY") }):
		return nil, fmt.Errorf("--tls-key: %s holds no private key in PEM, which begins with -----BEGIN PRIVATE KEY-----", f.keyFile)
	}
	cert, err := tls.X509KeyPair(pair[0], pair[1])
	if err != nil {
		if isMismatch(err) {
			return nil, fmt.Errorf("--tls-key: the key in %s belongs to another certificate than the first one in %s", f.keyFile, f.certFile)
		}
		return nil, fmt.Errorf("--tls-cert, --tls-key: %s with %s: %w", f.certFile, f.keyFile, errors.New(strings.TrimPrefix(err.Error(), "tls: ")))
	}
	now := time.Now()
	switch {
	case now.After(cert.Leaf.NotAfter):
		return nil, fmt.Errorf("--tls-cert: the certificate in %s has expired, on %s; renew it", f.certFile, day(cert.Leaf.NotAfter))
	case now.Before(cert.Leaf.NotBefore):
		return nil, fmt.Errorf("--tls-cert: the certificate in %s is valid from %s only; compare the clock of this machine", f.certFile, day(cert.Leaf.NotBefore))
	}
	return &cert, nil
}

// hasBlock says whether text has a complete block of PEM whose type is.
func hasBlock(text []byte, is func(kind string) bool) bool {
	for {
		var block *pem.Block
		if block, text = pem.Decode(text); block == nil {
			return false
		}
		if is(block.Type) {
			return true
		}
	}
}

// isMismatch says whether the key of [tls.X509KeyPair] was that of another certificate. Its errors
// have no types.
func isMismatch(err error) bool {
	return strings.Contains(err.Error(), "does not match")
}

// An expiryLog warns about a certificate that expires soon, at most once a day.
type expiryLog struct{ last time.Time }

// check warns if less than a sixth of the lifetime of a certificate is left, or less than 14 days.
// Whoever renews certificates does that earlier. why, unless it is empty, says why nobody has.
func (l *expiryLog) check(log *slog.Logger, what string, leaf *x509.Certificate, why string) {
	now := time.Now()
	left := leaf.NotAfter.Sub(now)
	if left > min(14*24*time.Hour, leaf.NotAfter.Sub(leaf.NotBefore)/6) || now.Sub(l.last) < 24*time.Hour {
		return
	}
	l.last = now
	verb := "expires"
	if left < 0 {
		verb = "expired"
	}
	text := fmt.Sprintf("%s %s on %s", what, verb, day(leaf.NotAfter))
	if why != "" {
		text += ", because renewing fails: " + why
	}
	log.Warn(text)
}

// day writes a time for people. Short-lived certificates make the minute matter.
func day(t time.Time) string { return t.UTC().Format("2006-01-02 15:04 UTC") }
