package commands

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"ntrack/announce"
	"ntrack/announce/wire"
)

// maxAskPause is the longest time between two questions of awaitTracker.
const maxAskPause = time.Second

// awaitTracker waits until a tracker answers, but at most for the time of --wait. So machines that start
// together need no order. If the time is over, it returns the error of the first tracker, and prints notes
// about the others. A question that still waits then ends, too: it could take --timeout longer.
func (o *client) awaitTracker(ctx context.Context, s Streams) error {
	if o.wait == 0 {
		return nil
	}
	limited, cancel := context.WithTimeoutCause(ctx, o.wait, errNotThere)
	defer cancel()
	asker := announce.Client{Timeout: o.Timeout, Token: o.Token, TLS: o.TLS} // without --from: the port is for the command
	errs := make(map[announce.Tracker]error)
	noted := false
	for pause := 50 * time.Millisecond; ; pause = min(2*pause, maxAskPause) {
		type answer struct {
			t   announce.Tracker
			err error
		}
		answers := make(chan answer, len(o.trackers))
		for _, t := range o.trackers {
			go func() {
				_, err := asker.List(limited, t, announce.Request{Key: o.askedKey(), Want: announce.NoPeers})
				answers <- answer{t, err}
			}()
		}
		var last error
		for range o.trackers {
			switch a := <-answers; {
			case errors.Is(a.err, errNotThere): // the time is over, and an earlier error says more
				errs[a.t] = cmp.Or(errs[a.t], error(&announce.UnreachableError{Tracker: a.t, Err: fmt.Errorf("%w within %v", errNotThere, o.wait)}))
			case !isNotThereYet(a.err):
				return nil
			default:
				last = a.err
				errs[a.t] = unreachable(a.t, a.err)
			}
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if !noted && limited.Err() == nil {
			s.note("%s; waiting for it, up to %v", brief(last), o.wait)
			noted = true
		}
		select {
		case <-limited.Done():
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			for _, t := range o.trackers[1:] {
				s.note("%s", brief(errs[t]))
			}
			return errs[o.trackers[0]]
		case <-time.After(pause/2 + rand.N(pause/2)):
		}
	}
}

// errNotThere ends the question that waits when the time of --wait is over.
var errNotThere = errors.New("it did not answer")

// unreachable returns the error of a tracker that was not there in time. A proxy that answers instead of
// the tracker makes no difference.
func unreachable(t announce.Tracker, err error) error {
	if is[*announce.RefusalError](err) {
		return &announce.UnreachableError{Tracker: t, Err: errors.New(err.Error())}
	}
	return err
}

// askedKey is the key of the question: that of the command, or any key if the command has none.
func (o *client) askedKey() announce.Key {
	if len(o.key.Bytes()) == 0 {
		return wire.KeyOf([]byte("-"))
	}
	return o.key
}

// isNotThereYet reports whether a tracker that gave this error may answer later without a change of the
// command line. A proxy answers with 502, 503 or 504 before its tracker is there.
func isNotThereYet(err error) bool {
	if f, refused := err.(*announce.RefusalError); refused {
		return f.Status >= 502 && f.Status <= 504
	}
	return is[*announce.UnreachableError](err) && !is[*tls.CertificateVerificationError](err) && !is[tls.RecordHeaderError](err)
}
