//go:build !unix

package commands

import (
	"context"

	"ntrack/announce"
)

// Where files cannot be locked like that, each leaves for all: see docs/PROTOCOL.md 12.4.
func (o *client) stayTogether(context.Context, Streams, announce.Request) (end func()) {
	return func() {}
}
