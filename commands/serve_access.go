package commands

import (
	"context"
	"fmt"

	"github.com/urfave/cli/v2"

	"ntrack/announce/wire"
)

// accessFlags are the options that say who may use the tracker.
func accessFlags() []cli.Flag {
	return []cli.Flag{
		&cli.StringFlag{Name: "token-file", TakesFile: true, Usage: "serve only clients that send the access token in `FILE`"},
	}
}

func (o *serveOptions) buildAccess(c *cli.Context, s Streams) error {
	if file := c.String("token-file"); file != "" {
		token, err := readToken(c.Context, file, s.In)
		if err != nil {
			return fmt.Errorf("--token-file: %w", err)
		}
		o.tracker.Token, o.tokenFile = token, file
	}
	return nil
}

// reloadToken reads the token file again. If it cannot, the tracker keeps the old token.
func (o *serveOptions) reloadToken(ctx context.Context, s Streams) {
	switch o.tokenFile {
	case "":
		s.note("SIGHUP: there is no --token-file to read again")
		return
	case "-":
		s.warn("SIGHUP: --token-file -: standard input cannot be read again; the token stays")
		return
	}
	token, err := readToken(ctx, o.tokenFile, nil)
	if err != nil {
		s.warn("SIGHUP: --token-file: %v; the token stays", err)
		return
	}
	o.tracker.SetToken(token)
	s.note("SIGHUP: the token has been read again from %s", wire.Clean(o.tokenFile))
}
