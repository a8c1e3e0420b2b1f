package announce

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"

	"ntrack/announce/wire"
)

// An UnreachableError says that a tracker did not answer.
type UnreachableError struct {
	Tracker Tracker
	Err     error

	redirect string // the host that did not answer, if the tracker has redirected to it; else ""
}

func (e *UnreachableError) Error() string {
	err, where := e.Err, ""
	if e.redirect != "" {
		where = "it redirects to " + e.redirect + ": "
	}
	var op *net.OpError
	var call *os.SyscallError
	var dns *net.DNSError
	switch { // without the addresses: the message begins with the name of the tracker
	case errors.As(err, &dns) && dns.IsNotFound:
		err = errors.New(dns.Err)
	case errors.As(err, &dns) && dns.IsTimeout:
		err = errors.New("DNS does not answer")
	case errors.As(err, &dns):
		err = errors.New("DNS fails: " + dns.Err)
	case errors.As(err, &call):
		err = call.Err
	case errors.As(err, &op):
		err = op.Err
	}
	return fmt.Sprintf("tracker %s is unreachable: %s", e.Tracker.HostPort(), e.Tracker.Conceal(wire.Clean(where+err.Error())))
}

func (e *UnreachableError) Unwrap() error { return e.Err }

// A ReplyError says that an answer is not a tracker's reply. A different server may have sent it.
type ReplyError struct {
	Tracker Tracker
	Err     error
}

func (e *ReplyError) Error() string {
	return fmt.Sprintf("tracker %s: %s", e.Tracker.HostPort(), e.Tracker.Conceal(wire.Clean(e.Err.Error())))
}

func (e *ReplyError) Unwrap() error { return e.Err }

// A SharedError says that another process is listed as the same endpoint under the same key, so both
// count as one peer. A tracker reports this on event streams, if the two members have sent different
// peer ids.
type SharedError struct {
	// Endpoint is the endpoint that both processes have.
	Endpoint netip.AddrPort
}

func (e *SharedError) Error() string {
	return fmt.Sprintf("another process is listed as %s, too, and both count as one peer: each needs a port of its own", e.Endpoint)
}

// The reasons for which a session cannot be a member if Request.Port is 0.
var (
	// Each renewal could come from a different port, and so list a different peer.
	errNoOrigin   = errors.New("the tracker does not report the port of origin: give a port to stay")
	errHiddenPort = errors.New("a classic tracker ignores the port of origin, and Dial hides it: give a port")
)

// detail ranks the errors of a tracker: an error with a higher rank says more about the tracker.
func detail(err error) int {
	var noAddress *net.AddrError
	var noHost *net.DNSError
	var refusal *RefusalError
	var notReply *ReplyError
	switch {
	case errors.As(err, &refusal):
		return 3
	case errors.As(err, &notReply):
		return 2
	case errors.As(err, &noAddress), errors.As(err, &noHost) && noHost.IsNotFound, isNoRoute(err):
		return 0
	}
	return 1
}

// moreInformative returns the error that says more about the tracker, or a if both say the same
// amount. An error that is nil says nothing.
func moreInformative(a, b error) error {
	if a == nil || b != nil && detail(b) > detail(a) {
		return b
	}
	return a
}

// isFinal reports whether the same request would fail again with the same error, however often it
// is sent. A wrong key, token or path is final. A tracker that is away, overloaded or broken may
// recover.
func isFinal(err error) bool {
	refusal, ok := errors.AsType[*RefusalError](err)
	return ok && (refusal.Status == 400 || refusal.Status == 401 || refusal.Status == 404) ||
		errors.Is(err, errNoOrigin) || errors.Is(err, errHiddenPort)
}
