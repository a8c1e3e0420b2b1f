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

	redirect string // the host to which the tracker redirects, if that is the one; else ""
}

func (e *UnreachableError) Error() string {
	err, where := e.Err, ""
	if e.redirect != "" {
		where = "it redirects to " + e.redirect + ": "
	}
	var op *net.OpError
	var call *os.SyscallError
	var dns *net.DNSError
	switch { // leave out addresses: the message begins with the one that matters
	case errors.As(err, &dns):
		err = errors.New(dns.Err)
	case errors.As(err, &call):
		err = call.Err
	case errors.As(err, &op):
		err = op.Err
	}
	return fmt.Sprintf("tracker %s is unreachable: %s", e.Tracker.HostPort(), wire.Clean(where+err.Error()))
}

func (e *UnreachableError) Unwrap() error { return e.Err }

// A ReplyError says that a tracker's answer makes no sense: something else may answer there.
type ReplyError struct {
	Tracker Tracker
	Err     error
}

func (e *ReplyError) Error() string {
	return fmt.Sprintf("tracker %s: %s", e.Tracker.HostPort(), wire.Clean(e.Err.Error()))
}

func (e *ReplyError) Unwrap() error { return e.Err }

// A SharedError says that another program is listed as the same endpoint under the same key, so
// that both count as one peer. A tracker reports it on the event stream of a member that has sent a
// peer id, when another member has sent a different one.
type SharedError struct {
	// Endpoint is the one that both have.
	Endpoint netip.AddrPort
}

func (e *SharedError) Error() string {
	return fmt.Sprintf("another process is listed as %s, too, and both count as one peer: each needs a port of its own", e.Endpoint)
}

// The reasons for which a session cannot be a member without r.Port.
var (
	// Each renewal would come from another port, and so list another peer.
	errNoOrigin   = errors.New("the tracker does not report the port of origin: give a port to stay")
	errHiddenPort = errors.New("a classic tracker does not look at the port of origin, and Dial hides it: give a port")
)

// detail ranks errors of one tracker by how much they say about it.
func detail(err error) int {
	var noAddress *net.AddrError
	var noHost *net.DNSError
	var refusal *RefusalError
	var senseless *ReplyError
	switch {
	case errors.As(err, &refusal):
		return 3
	case errors.As(err, &senseless):
		return 2
	case errors.As(err, &noAddress), errors.As(err, &noHost) && noHost.IsNotFound, isNoRoute(err):
		return 0
	}
	return 1
}

// moreInformative returns the error that says more about a tracker, and a if both say as much. Either
// may be nil.
func moreInformative(a, b error) error {
	if a == nil || b != nil && detail(b) > detail(a) {
		return b
	}
	return a
}

// isFinal reports whether the same request would bring the same error again. A tracker that is
// away, overloaded or broken may mend; a wrong key, token or path does not.
func isFinal(err error) bool {
	refusal, ok := errors.AsType[*RefusalError](err)
	return ok && (refusal.Status == 400 || refusal.Status == 401 || refusal.Status == 404) ||
		errors.Is(err, errNoOrigin) || errors.Is(err, errHiddenPort)
}
