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
		&cli.StringFlag{Name: "token-file", TakesFile: true, Usage: "serve only clients that send an access token in `FILE`, which has one on each line"},
	}
}

func (o *serveOptions) buildAccess(c *cli.Context, s Streams) error {
	if file := c.String("token-file"); file != "" {
		tokens, err := readTokens(c.Context, file, s)
		if err != nil {
			return fmt.Errorf("--token-file: %w", err)
		}
		o.tracker.Tokens, o.tokenFile = tokens, file
	}
	return nil
}

// reloadTokens reads the token file again. If it cannot, the tracker keeps the old tokens.
func (o *serveOptions) reloadTokens(ctx context.Context, s Streams) {
	switch o.tokenFile {
	case "":
		s.note("SIGHUP: there is no --token-file to read again")
		return
	case "-":
		s.warn("SIGHUP: --token-file -: standard input cannot be read again; the tokens stay")
		return
	}
	tokens, err := readTokens(ctx, o.tokenFile, s)
	if err != nil {
		s.warn("SIGHUP: --token-file: %v; the tokens stay", err)
		return
	}
	o.tracker.SetTokens(tokens...)
	s.note("SIGHUP: the tokens have been read again from %s", wire.Clean(o.tokenFile))
}
