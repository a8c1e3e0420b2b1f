package commands

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/urfave/cli/v2"

	"ntrack/announce/wire"
	"ntrack/tracker/store"
	"ntrack/tracker/store/valkey"
)

// storeWait is how long serve waits at its start for a database that does not answer. A machine may
// start both at the same time, and a database may have just moved to another machine.
const storeWait = 30 * time.Second

// storeFlags are the options for a table that several trackers share.
func storeFlags() []cli.Flag {
	return []cli.Flag{
		&cli.StringFlag{Name: "store", DefaultText: "in memory", Usage: "share one table with other trackers in the Valkey or Redis at `URL`, such as valkey://127.0.0.1:6379; --max-per-addr then counts the peers of each tracker by itself, and --max-memory does not limit the table"},
		&cli.StringFlag{Name: "store-file", TakesFile: true, Usage: "read the URL of --store from `FILE`, which keeps its password off the command line"},
		&cli.StringFlag{Name: "store-prefix", Value: valkey.DefaultPrefix, Usage: "begin all keys in the database with `PREFIX`, 1 to 32 letters, digits, dots, underscores or hyphens: trackers of the same prefix share a table"},
	}
}

// A storeOptions says where the table is. Without a URL it is in memory.
type storeOptions struct {
	config valkey.Config
	from   string        // the option that the URL comes from, for messages
	wait   time.Duration // storeWait
	opened *valkey.Store // nil before openStore, and without a URL
}

func (o *serveOptions) buildStore(c *cli.Context, s Streams) error {
	o.store.config.URL, o.store.from, o.store.wait = c.String("store"), "--store", storeWait
	file := c.String("store-file")
	switch {
	case c.IsSet("store") && file != "":
		return usage(c, "--store and --store-file exclude each other")
	case file == "-" || file == "/dev/stdin":
		return usage(c, "--store-file %s: name a file; a service has no standard input", file)
	case file != "":
		var err error
		if o.store.config.URL, err = readLine(c.Context, file, nil); err != nil {
			return fmt.Errorf("--store-file: %w", err)
		}
		o.store.from = "--store-file " + shown(file)
	case !c.IsSet("store"):
		if c.IsSet("store-prefix") {
			return usage(c, "--store-prefix %s is for --store URL, which is missing", shown(c.String("store-prefix")))
		}
		return nil
	}
	if err := valkey.CheckURL(o.store.config.URL); err != nil {
		return usage(c, "%s: %s: %v", o.store.from, o.storeShown(), err)
	}
	o.store.config.Prefix = c.String("store-prefix")
	if err := valkey.CheckPrefix(o.store.config.Prefix); err != nil {
		return usage(c, "--store-prefix %q: %v", shown(o.store.config.Prefix), err)
	}
	switch hasPassword := valkey.HasPassword(o.store.config.URL); {
	case hasPassword && file != "":
		warnReadable(s, "--store-file", file)
	case hasPassword && !lineOf(c).find("store").fromVariable():
		s.warn("--store: every user of this machine can see the password in the list of processes; put the URL into a file, and name it by --store-file")
	}
	o.store.config.MaxPerAddr = c.Int("max-per-addr")
	return nil
}

// storeShown is where the table is, without a password.
func (o *serveOptions) storeShown() string { return wire.Clean(valkey.Shown(o.store.config.URL)) }

// storeText is storeShown with the prefix, if it is not the usual one.
func (o *serveOptions) storeText() string {
	if o.store.config.Prefix == valkey.DefaultPrefix {
		return o.storeShown()
	}
	return o.storeShown() + " by the prefix " + o.store.config.Prefix
}

// openStore connects to the database. It waits for one that may answer later, and warns once that it
// does. The caller calls closeStore.
func (o *serveOptions) openStore(ctx context.Context, s Streams) error {
	if o.store.config.URL == "" {
		return nil
	}
	o.store.config.Log = func(text string) { s.warn("%s: %s", o.store.from, text) }
	end := time.Now().Add(o.store.wait)
	for warned := false; ; warned = true {
		opened, err := valkey.Open(ctx, o.store.config)
		if err == nil {
			o.store.opened, o.tracker.Store = opened, opened
			return nil
		}
		err = fmt.Errorf("%s: %w", o.store.from, err)
		if ctx.Err() != nil || !errors.Is(err, store.ErrUnavailable) {
			return err
		}
		if !warned {
			s.warn("%v; ntrack tries again for %v", err, o.store.wait)
		}
		if time.Now().After(end) {
			return err
		}
		select {
		case <-ctx.Done():
		case <-time.After(min(time.Second, o.store.wait)):
		}
	}
}

// closeStore gives up what the tracker holds in the table. Its streams have ended.
func (o *serveOptions) closeStore() {
	if o.store.opened != nil {
		o.store.opened.Close()
	}
}

// checkStore returns an error if the database has not answered for some seconds.
func (o *serveOptions) checkStore() error {
	if o.store.opened == nil {
		return nil
	}
	if st := o.store.opened.Stats(); !st.Up() {
		return fmt.Errorf("the shared table at %s has not answered for %v", o.storeShown(), st.SinceAnswer.Round(time.Second))
	}
	return nil
}

// watchStore logs when the database goes away, and when it is back, until ctx ends.
func (o *serveOptions) watchStore(ctx context.Context, s Streams) {
	if o.store.opened == nil {
		return
	}
	away := false
	for tick := time.NewTicker(time.Second); ; {
		select {
		case <-ctx.Done():
			tick.Stop()
			return
		case <-tick.C:
		}
		up := o.store.opened.Stats().Up()
		switch {
		case up && away:
			s.note("%s: %s answers again", o.store.from, o.storeShown())
		case !up && !away:
			s.warn("%s: %s does not answer; clients get status 503 until it does", o.store.from, o.storeShown())
		}
		away = !up
	}
}
