package commands

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"testing"

	"ntrack/announce"
)

// A tracker is waited for if it cannot be reached, or if a proxy says so. Its own errors, and those of its
// certificate, are there to stay.
func TestIsNotThereYet(t *testing.T) {
	for status, want := range map[int]bool{400: false, 401: false, 404: false, 429: false, 500: false, 501: false, 502: true, 503: true, 504: true, 505: false} {
		if got := isNotThereYet(&announce.RefusalError{Status: status}); got != want {
			t.Errorf("status %d: %v, want %v", status, got, want)
		}
	}
	for _, tt := range []struct {
		err  error
		want bool
	}{
		{nil, false},
		{&announce.UnreachableError{Err: errors.New("connection refused")}, true},
		{&announce.UnreachableError{Err: &tls.CertificateVerificationError{Err: x509.UnknownAuthorityError{}}}, false},
		{&announce.UnreachableError{Err: tls.RecordHeaderError{Msg: "first record does not look like a TLS handshake"}}, false},
	} {
		if got := isNotThereYet(tt.err); got != tt.want {
			t.Errorf("%v: %v, want %v", tt.err, got, tt.want)
		}
	}
}
