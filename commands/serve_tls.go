package commands

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net/url"
	"regexp"
	"slices"

	"github.com/urfave/cli/v2"

	"ntrack/announce/wire"
	"ntrack/commands/certs"
)

// tlsFlags are the options for TLS.
func tlsFlags() []cli.Flag {
	return []cli.Flag{
		&cli.StringSliceFlag{Name: "listen-tls", Usage: "listen on `ADDR` for https, such as :443; it needs a certificate; may be repeated"},
		&cli.StringFlag{Name: "tls-cert", TakesFile: true, Usage: "the certificate for --listen-tls and those that lead to its authority, in `FILE` (PEM); read again when it changes"},
		&cli.StringFlag{Name: "tls-key", TakesFile: true, Usage: "the private key of --tls-cert, in `FILE` (PEM)"},
		&cli.StringSliceFlag{Name: "acme", Usage: "instead get a certificate for the host `NAME` from an authority by ACME, whose terms you accept; it must reach this tracker at port 443 or 80; may be repeated"},
		&cli.StringFlag{Name: "acme-cache", TakesFile: true, Value: certs.DefaultCache(), DefaultText: "acme in $STATE_DIRECTORY, or ntrack/acme in the user's cache", Usage: "keep the certificates of --acme and their keys in the directory `DIR`"},
		&cli.StringFlag{Name: "acme-directory", Value: certs.LetsEncrypt, DefaultText: "that of Let's Encrypt", Usage: "the `URL` of the authority for --acme"},
	}
}

// certOptions are the options that give a tracker a certificate.
const certOptions = "--tls-cert FILE --tls-key FILE, or --acme NAME"

// tlsOptions are the certificates of a tracker.
type tlsOptions struct {
	listen []string
	config *tls.Config // nil without TLS
	files  *certs.Files
	acme   *certs.Authority
}

func (o *serveOptions) buildTLS(c *cli.Context) error {
	o.tls.listen = c.StringSlice("listen-tls")
	for _, addr := range o.tls.listen {
		if err := checkListen(c, "listen-tls", addr); err != nil {
			return err
		}
	}
	certFile, keyFile := c.String("tls-cert"), c.String("tls-key")
	if names := c.StringSlice("acme"); len(names) > 0 {
		if certFile != "" || keyFile != "" {
			return usage(c, "--acme and --tls-cert exclude each other")
		}
		return o.buildACME(c, names)
	}
	for _, name := range []string{"acme-cache", "acme-directory"} {
		if c.IsSet(name) {
			return usage(c, "--%s %s is for --acme NAME, which is missing", name, shown(c.String(name)))
		}
	}
	switch {
	case certFile == "" && keyFile == "" && len(o.tls.listen) > 0:
		return usage(c, "--listen-tls %s needs a certificate: "+certOptions, shown(o.tls.listen[0]))
	case certFile == "" && keyFile == "":
		return nil
	case keyFile == "":
		return usage(c, "--tls-cert %s needs its private key: --tls-key FILE", shown(certFile))
	case certFile == "":
		return usage(c, "--tls-key %s needs its certificate: --tls-cert FILE", shown(keyFile))
	}
	files, err := certs.Load(certFile, keyFile)
	if err != nil {
		return err
	}
	o.tls.files = files
	o.tls.config = tlsConfig(files.Certificate)
	return nil
}

// tlsConfig is what a tracker speaks over TLS, besides its certificate.
func tlsConfig(certificate func(*tls.ClientHelloInfo) (*tls.Certificate, error), more ...string) *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS12, NextProtos: append([]string{"http/1.1"}, more...),
		GetCertificate: certificate,
	}
}

// hostName matches the names that a public authority certifies.
var hostName = regexp.MustCompile(`^([a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?\.)+[a-z]([a-z0-9-]{0,61}[a-z0-9])?$`)

func (o *serveOptions) buildACME(c *cli.Context, names []string) error {
	for _, name := range names {
		if !hostName.MatchString(name) || len(name) > 253 {
			return usage(c, "--acme %q: the name of a host in lower case, such as tracker.example.org", shown(name))
		}
	}
	directory, cache := c.String("acme-directory"), c.String("acme-cache")
	if u, err := url.Parse(directory); err != nil || u.Scheme != "https" || u.Host == "" {
		return usage(c, "--acme-directory %q: a URL that begins with https://", shown(directory))
	}
	if cache == "" {
		return usage(c, "--acme needs a directory for its certificates: --acme-cache DIR")
	}
	authority, err := certs.NewAuthority(names, cache, directory)
	if err != nil {
		return fmt.Errorf("--acme-cache %s: %s; name a directory that ntrack may write", wire.Clean(cache), reasonOf(err))
	}
	o.tls.acme = authority
	o.tls.config = tlsConfig(authority.Certificate, certs.ALPN)
	return nil
}

// checkTLSEndpoint returns an error if there is a certificate, but no endpoint that serves it.
func (o *serveOptions) checkTLSEndpoint(endpoints []endpoint) error {
	if o.tls.config == nil || slices.ContainsFunc(endpoints, func(e endpoint) bool { return e.kind == tlsEndpoint }) {
		return nil
	}
	return errors.New("--tls-cert and --acme are for https, and nothing serves https: add --listen-tls ADDR, such as :443")
}

// runTLS keeps the certificates valid until ctx ends.
func (o *serveOptions) runTLS(ctx context.Context, endpoints []endpoint) {
	if o.tls.acme != nil {
		if slices.ContainsFunc(endpoints, func(e endpoint) bool { return e.kind == plainEndpoint && e.port() == 80 }) {
			o.tls.acme.UsePort80()
			o.server.Challenge = o.tls.acme.Challenge
		}
		go o.tls.acme.Run(ctx, o.server.Log)
	}
	if o.tls.files != nil {
		go o.tls.files.Run(ctx, o.server.Log)
	}
}

// reloadTLS reads the certificate again.
func (o *serveOptions) reloadTLS() {
	if o.tls.files != nil {
		o.tls.files.Reload()
	}
	if o.tls.acme != nil {
		o.tls.acme.Reload()
	}
}
