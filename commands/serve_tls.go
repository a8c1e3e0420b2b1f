package commands

import (
	"context"
	"crypto/tls"
	"errors"
	"slices"

	"github.com/urfave/cli/v2"

	"ntrack/commands/certs"
)

// tlsFlags are the options for TLS.
func tlsFlags() []cli.Flag {
	return []cli.Flag{
		&cli.StringSliceFlag{Name: "listen-tls", Usage: "listen on `ADDR` for https, such as :443; it needs a certificate; may be repeated"},
		&cli.StringFlag{Name: "tls-cert", TakesFile: true, Usage: "the certificate for --listen-tls and those that lead to its authority, in `FILE` (PEM); read again when it changes"},
		&cli.StringFlag{Name: "tls-key", TakesFile: true, Usage: "the private key of --tls-cert, in `FILE` (PEM)"},
	}
}

// certOptions are the options that give a tracker a certificate.
const certOptions = "--tls-cert FILE --tls-key FILE"

// tlsOptions are the certificates of a tracker.
type tlsOptions struct {
	listen []string
	config *tls.Config // nil without TLS
	files  *certs.Files
}

func (o *serveOptions) buildTLS(c *cli.Context) error {
	o.tls.listen = c.StringSlice("listen-tls")
	for _, addr := range o.tls.listen {
		if err := checkListen(c, "listen-tls", addr); err != nil {
			return err
		}
	}
	certFile, keyFile := c.String("tls-cert"), c.String("tls-key")
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
	o.tls.config = &tls.Config{
		MinVersion: tls.VersionTLS12, NextProtos: []string{"http/1.1"},
		GetCertificate: files.Certificate,
	}
	return nil
}

// checkTLSEndpoint returns an error if there is a certificate, but no endpoint that serves it.
func (o *serveOptions) checkTLSEndpoint(endpoints []endpoint) error {
	if o.tls.config == nil || slices.ContainsFunc(endpoints, func(e endpoint) bool { return e.kind == tlsEndpoint }) {
		return nil
	}
	return errors.New("--tls-cert is for https, and nothing serves https: add --listen-tls ADDR, such as :443")
}

// runTLS keeps the certificates valid until ctx ends.
func (o *serveOptions) runTLS(ctx context.Context) {
	if o.tls.files != nil {
		go o.tls.files.Run(ctx, o.server.Log)
	}
}

// reloadTLS reads the certificate again.
func (o *serveOptions) reloadTLS() {
	if o.tls.files != nil {
		o.tls.files.Reload()
	}
}
