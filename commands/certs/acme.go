package certs

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/crypto/acme"
	"golang.org/x/crypto/acme/autocert"
)

// LetsEncrypt is the ACME directory of Let's Encrypt.
const LetsEncrypt = acme.LetsEncryptURL

// ALPN is the protocol of the challenge tls-alpn-01, for [tls.Config.NextProtos].
const ALPN = acme.ALPNProto

// challengePath begins the path of the challenge http-01.
const challengePath = "/.well-known/acme-challenge/"

// If an order fails, the next one is made after firstRetry, and then after twice the time of the last,
// but at most after maxRetry. Authorities refuse clients that ask too often.
const (
	firstRetry = time.Minute
	maxRetry   = time.Hour
)

// An Authority gets certificates by ACME (RFC 8555), one for each name, and renews them. It makes an
// order when it starts, and never because of a handshake. So strangers cannot make it order anything.
type Authority struct {
	names  []string
	hosts  map[string]*host
	orders sync.Mutex // one order at a time, so that the account is made once
}

// A host is a name, and the certificate for it.
type host struct {
	name      string
	directory string
	cache     diskCache
	http01    bool
	// manager makes the orders. A failed order gets a new one, because autocert would refuse
	// another order for a minute.
	manager atomic.Pointer[autocert.Manager]
	causes  *causes
	ready   atomic.Bool                 // manager has a certificate
	log     atomic.Pointer[slog.Logger] // nil before Run
	retry   chan struct{}
}

// NewAuthority prepares certificates for these names. It keeps them and their keys in the directory
// cache, and makes the directory if there is none. directory is the URL of the authority.
func NewAuthority(names []string, cache, directory string) (*Authority, error) {
	if err := os.MkdirAll(cache, 0o700); err != nil {
		return nil, err
	}
	probe, err := os.CreateTemp(cache, "probe")
	if err != nil {
		return nil, err
	}
	_ = probe.Close()
	if err := os.Remove(probe.Name()); err != nil {
		return nil, err
	}
	a := &Authority{names: names, hosts: make(map[string]*host)}
	for _, name := range names {
		h := &host{name: name, directory: directory, causes: new(causes), retry: make(chan struct{}, 1)}
		h.cache = diskCache{autocert.DirCache(cache), h}
		a.hosts[name] = h
		a.hosts[name].renew()
		a.hosts[name].loadCached()
	}
	return a, nil
}

// UsePort80 lets the authority ask on port 80, too. The tracker must answer by [Authority.Challenge]
// there. Call it before Run.
func (a *Authority) UsePort80() {
	for _, h := range a.hosts {
		h.http01 = true
		h.manager.Load().HTTPHandler(nil)
	}
}

// renew gives the host a new manager.
func (h *host) renew() {
	m := &autocert.Manager{
		Prompt: autocert.AcceptTOS, Cache: h.cache, HostPolicy: autocert.HostWhitelist(h.name),
		Client: &acme.Client{DirectoryURL: h.directory, UserAgent: "ntrack", HTTPClient: &http.Client{Transport: h.causes}},
	}
	if h.http01 {
		m.HTTPHandler(nil) // from then on the manager tries http-01 if tls-alpn-01 fails
	}
	h.manager.Store(m)
}

// loadCached makes the host ready if the cache has a valid certificate, so that a tracker that starts
// again can serve at once.
func (h *host) loadCached() {
	text, err := h.cache.Get(context.Background(), h.name)
	if err != nil {
		return
	}
	cert, err := tls.X509KeyPair(text, text)
	now := time.Now()
	if err == nil && now.After(cert.Leaf.NotBefore) && now.Before(cert.Leaf.NotAfter) && cert.Leaf.VerifyHostname(h.name) == nil {
		_, err = h.certificate() // from the cache
		h.ready.Store(err == nil)
	}
}

// certificate returns the certificate. If there is none, it makes an order, which may take minutes.
func (h *host) certificate() (*tls.Certificate, error) {
	return h.manager.Load().GetCertificate(&tls.ClientHelloInfo{
		ServerName:   h.name,
		CipherSuites: []uint16{tls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256}, // for a key of ECDSA
	})
}

var errNoCertificate = errors.New("no certificate for this name")

// Certificate is for [tls.Config.GetCertificate]. It never waits for the authority. A client that
// names no host gets the certificate of the first name.
func (a *Authority) Certificate(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
	name := strings.ToLower(strings.TrimSuffix(hello.ServerName, "."))
	if name == "" {
		name = a.names[0]
	}
	h := a.hosts[name]
	switch {
	case h == nil:
		return nil, errNoCertificate
	case len(hello.SupportedProtos) == 1 && hello.SupportedProtos[0] == ALPN:
		return h.manager.Load().GetCertificate(hello)
	case !h.ready.Load():
		return nil, errNoCertificate
	}
	return h.certificate()
}

// Names returns the names of the hosts.
func (a *Authority) Names() []string { return a.names }

// Challenge answers the challenge http-01: it returns the body for the target of a request, or nil.
func (a *Authority) Challenge(target []byte) []byte {
	if !bytes.HasPrefix(target, []byte(challengePath)) {
		return nil
	}
	for _, h := range a.hosts {
		var w bodyWriter
		r := &http.Request{Method: http.MethodGet, Host: h.name, URL: &url.URL{Path: string(target)}}
		h.manager.Load().HTTPHandler(nil).ServeHTTP(&w, r.WithContext(context.Background()))
		if w.status == 0 && w.body != nil {
			return w.body
		}
	}
	return nil
}

// A bodyWriter keeps the status and the body that a handler writes.
type bodyWriter struct {
	status int // 0 means 200
	body   []byte
}

func (w *bodyWriter) Header() http.Header         { return make(http.Header) }
func (w *bodyWriter) WriteHeader(status int)      { w.status = status }
func (w *bodyWriter) Write(b []byte) (int, error) { w.body = append(w.body, b...); return len(b), nil }

// Reload makes Run order at once what it has no certificate for.
func (a *Authority) Reload() {
	for _, h := range a.hosts {
		select {
		case h.retry <- struct{}{}:
		default:
		}
	}
}

// Run gets a certificate for each name, and watches that it is renewed, until ctx ends. It logs why an
// order fails.
func (a *Authority) Run(ctx context.Context, log *slog.Logger) {
	var running sync.WaitGroup
	for _, name := range a.names {
		h := a.hosts[name]
		h.causes.ctx.Store(&ctx)
		h.log.Store(log)
		running.Go(func() {
			if a.obtain(ctx, h, log) {
				h.watch(ctx, log)
			}
		})
	}
	running.Wait()
}

// obtain makes orders until one succeeds. It returns false if ctx ends before that.
func (a *Authority) obtain(ctx context.Context, h *host, log *slog.Logger) bool {
	for wait := firstRetry; !h.ready.Load(); wait = min(2*wait, maxRetry) {
		cert, err := a.order(h)
		if ctx.Err() != nil {
			return false
		}
		if err == nil {
			h.ready.Store(true)
			log.Info(fmt.Sprintf("--acme %s: there is a certificate, valid until %s", h.name, day(cert.Leaf.NotAfter)))
			break
		}
		log.Warn(fmt.Sprintf("--acme %s: no certificate: %s; the next try is in %v, or at SIGHUP", h.name, h.causes.explain(err), wait))
		h.renew()
		next := time.NewTimer(wait + rand.N(wait/10))
		select {
		case <-ctx.Done():
			next.Stop()
			return false
		case <-next.C:
		case <-h.retry:
			next.Stop()
		}
	}
	return true
}

func (a *Authority) order(h *host) (*tls.Certificate, error) {
	a.orders.Lock()
	defer a.orders.Unlock()
	h.causes.reset()
	return h.certificate()
}

// watch warns once a day if the certificate expires soon. Its manager renews it long before that, when
// a third of its lifetime is left, or 30 days.
func (h *host) watch(ctx context.Context, log *slog.Logger) {
	hourly := time.NewTicker(time.Hour)
	defer hourly.Stop()
	var expiry expiryLog
	for {
		if cert, err := h.certificate(); err == nil {
			expiry.check(log, fmt.Sprintf("--acme %s: the certificate", h.name), cert.Leaf, h.causes.explain(nil))
		}
		select {
		case <-ctx.Done():
			return
		case <-h.retry:
		case <-hourly.C:
		}
	}
}

// A diskCache is a directory with the account's key and the certificates. The answers to challenges
// are not in it, because the manager has them in memory. So no handshake reads a file.
type diskCache struct {
	autocert.DirCache
	h *host
}

func isChallenge(key string) bool {
	return strings.HasSuffix(key, "+token") || strings.HasSuffix(key, "+http-01")
}

func (c diskCache) Get(ctx context.Context, key string) ([]byte, error) {
	if isChallenge(key) {
		return nil, autocert.ErrCacheMiss
	}
	return c.DirCache.Get(ctx, key)
}

func (c diskCache) Put(ctx context.Context, key string, text []byte) error {
	if isChallenge(key) {
		return nil
	}
	err := c.DirCache.Put(ctx, key, text)
	// autocert ignores that a certificate cannot be kept. Other errors make the order fail.
	if log := c.h.log.Load(); err != nil && log != nil && strings.HasPrefix(key, c.h.name) {
		log.Warn(fmt.Sprintf("--acme %s: the certificate is not in --acme-cache: %v; after a restart ntrack orders another one, and authorities limit that", c.h.name, err))
	}
	return err
}

func (c diskCache) Delete(ctx context.Context, key string) error {
	if isChallenge(key) {
		return nil
	}
	return c.DirCache.Delete(ctx, key)
}

// DefaultCache is where the certificates are if the operator names no directory: in that of systemd's
// StateDirectory=, else in the user's directory for caches. It returns "" if there is neither.
func DefaultCache() string {
	state, _, _ := strings.Cut(os.Getenv("STATE_DIRECTORY"), ":")
	if state != "" {
		return filepath.Join(state, "acme")
	}
	dir, err := os.UserCacheDir()
	if err != nil {
		return ""
	}
	return filepath.Join(dir, "ntrack", "acme")
}
