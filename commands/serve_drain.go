package commands

import (
	"context"
	"fmt"
	"syscall"
	"time"

	"github.com/urfave/cli/v2"

	"ntrack/tracker/server"
)

// maxDrain is the longest --drain.
const maxDrain = time.Hour

// drainFlags are the options that say how the tracker ends.
func drainFlags() []cli.Flag {
	return []cli.Flag{
		&cli.DurationFlag{Name: "drain", DefaultText: "end at once", Usage: "after SIGTERM serve for `D` more, but report at /readyz that the tracker is not ready, so that a load balancer chooses another one"},
	}
}

func (o *serveOptions) buildDrain(c *cli.Context) error {
	if o.drain = c.Duration("drain"); o.drain < 0 || o.drain > 0 && o.drain < time.Second || o.drain > maxDrain {
		return usage(c, "--drain %v: 1s to 1h, or 0s to end at once", o.drain)
	}
	return nil
}

// end ends the tracker after a signal. Only SIGTERM drains it, because that is the signal of whoever
// plans a restart.
func (o *serveOptions) end(signaled context.Context) {
	drains := o.drain > 0 && interruptedBy(syscall.SIGTERM)(context.Cause(signaled))
	if drains {
		notifyStopping(o.server.Log, o.drain+shutdownTime)
		o.server.Log.Info(fmt.Sprintf("draining for %v; a second signal ends ntrack at once", o.drain))
		o.server.Drain(context.Background(), o.drain)
	} else {
		notifyStopping(o.server.Log, shutdownTime)
	}
	shutdown(&o.server)
}

// shutdownTime is how long the requests may still take that a tracker has begun to serve at its end.
const shutdownTime = 5 * time.Second

func shutdown(srv *server.Server) {
	ctx, cancel := context.WithTimeout(context.Background(), shutdownTime)
	defer cancel()
	_ = srv.Shutdown(ctx)
}
