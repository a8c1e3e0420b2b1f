package commands

import (
	"context"
	"crypto/tls"
	"math/rand/v2"
	"time"

	"ntrack/announce"
	"ntrack/announce/wire"
)

// maxAskPause is the longest time between two questions of awaitTracker.
const maxAskPause = time.Second

// awaitTracker waits until a tracker answers, but at most for the time of --wait. So machines that start
// together need no order. The command itself then asks again, and returns the error of a tracker that
// still does not answer.
func (o *client) awaitTracker(ctx context.Context, s Streams) error {
	if o.wait == 0 {
		return nil
	}
	limited, cancel := context.WithTimeout(ctx, o.wait)
	defer cancel()
	asker := announce.Client{Timeout: o.Timeout, Token: o.Token, TLS: o.TLS} // without --from: the port is for the command
	noted := false
	for pause := 50 * time.Millisecond; ; pause = min(2*pause, maxAskPause) {
		answers := make(chan error, len(o.trackers))
		for _, t := range o.trackers {
			go func() {
				_, err := asker.List(limited, t, announce.Request{Key: o.askedKey(), Want: announce.NoPeers})
				answers <- err
			}()
		}
		var last error
		for range o.trackers {
			if last = <-answers; !isNotThereYet(last) {
				return nil
			}
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if !noted {
			s.note("%s; waiting for it, up to %v", brief(last), o.wait)
			noted = true
		}
		select {
		case <-limited.Done():
			return context.Cause(ctx)
		case <-time.After(pause/2 + rand.N(pause/2)):
		}
	}
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
