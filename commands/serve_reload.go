package commands

import (
	"context"
	"os"
	"os/signal"
	"syscall"

	"ntrack/commands/process"
)

// takeHangups makes SIGHUP read files again, as is usual for daemons. On a terminal, SIGHUP
// means that the terminal was closed. Then it ends the tracker, unless nohup made ntrack ignore it.
func (o *serveOptions) takeHangups(s Streams) {
	if s.Signals != nil && (signal.Ignored(syscall.SIGHUP) || !process.OnTerminal()) {
		o.hangups = make(chan os.Signal, 1)
		s.Signals(o.hangups, syscall.SIGHUP)
	}
}

// reload reads the files again that an operator may have changed.
func (o *serveOptions) reload(ctx context.Context, s Streams) {
	o.reloadTLS()
	if o.tokenFile != "" || o.denyFile == "" && o.tls.config == nil {
		o.reloadTokens(ctx, s)
	}
	o.reloadDeny(ctx, s)
}
