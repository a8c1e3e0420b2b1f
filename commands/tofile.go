package commands

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net/netip"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	"ntrack/announce"
	"ntrack/output"
)

// `ntrack watch --to FILE` keeps a file true: HEADER, and the text of --format for each other peer.

type toFileOptions struct {
	name, header string // name is "" without --to
	file         *replacement
	settle       time.Duration
}

// maxFile bounds the file that the watch of an earlier process has left, in bytes.
const maxFile = 64 << 20

func (o *watchOptions) buildToFile(c *cli.Context) (err error) {
	to := &o.to
	*to = toFileOptions{name: c.String("to"), header: c.String("header"), settle: c.Duration("settle")}
	switch {
	case to.name == "" && c.IsSet("header"):
		return usage(c, "--header needs --to FILE")
	case c.IsSet("settle") && to.settle < 0:
		return usage(c, "--settle %v: 0s or more", to.settle)
	case c.IsSet("settle") && (o.barrier.min > 0 || to.name == "" && o.exec == ""):
		return usage(c, "--settle needs --to or --exec, without --min: it gathers changes for them")
	case to.name == "":
		return nil
	case to.name == "-":
		return usage(c, "--to -: the name of a file is wanted; without --to the lines go to standard output")
	case o.template == nil:
		return usage(c, "--to needs --format TEMPLATE, such as --format '{{.Endpoint}}'")
	case o.once:
		return usage(c, "--to and --once exclude each other; for a file that is written once use `ntrack list KEY --format TEMPLATE >FILE`")
	}
	if to.header != "" && !strings.HasSuffix(to.header, "\n") {
		to.header += "\n"
	}
	to.file, err = newReplacement(to.name)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("%w; create its directory first", to.failed(err))
	case errors.Is(err, fs.ErrPermission):
		return fmt.Errorf("%w; its directory must be writable, because the file is replaced", to.failed(err))
	case err != nil:
		return to.failed(err)
	}
	return nil
}

func (to *toFileOptions) failed(err error) error {
	return fmt.Errorf("--to %s: %s", shown(to.name), reasonOf(err))
}

// A keeper keeps the file of --to true. It also gathers changes for --settle, and passes the list on to
// the runner of --exec, if there is one, after it has replaced the file. Without --to it only does the
// latter. It keeps only the newest list, so a slow disk neither delays the watch nor fills the memory.
type keeper struct {
	*watchOptions
	s       Streams
	runs    *runner // may be nil
	newest  chan announce.Event
	ended   chan struct{}
	earlier earlier
}

func startKeeper(ctx context.Context, s Streams, o *watchOptions, runs *runner) (*keeper, error) {
	k := &keeper{watchOptions: o, s: s, runs: runs, newest: make(chan announce.Event, 1), ended: make(chan struct{})}
	if o.to.name != "" {
		old, err := o.to.file.old(maxFile)
		if err != nil {
			return nil, o.to.failed(err)
		}
		if lines, found := strings.CutPrefix(old, o.to.header); found { // otherwise it was made for something else
			k.earlier.texts = o.template.Split(lines)
		}
	}
	go func() {
		defer close(k.ended)
		k.loop(ctx)
	}()
	return k, nil
}

// show gives the keeper the newest list. It drops an older list that still waits.
func (k *keeper) show(ev announce.Event) error {
	select {
	case older := <-k.newest:
		if ev.TTL == 0 { // only a whole list has these
			ev.TTL, ev.Age = older.TTL, older.Age
		}
	default:
	}
	k.newest <- ev
	return nil
}

// end waits until the file is no longer written. The caller must have ended the context.
func (k *keeper) end() { <-k.ended }

func (k *keeper) loop(ctx context.Context) {
	var list []netip.AddrPort
	var settled, whole, again <-chan time.Time
	var pause time.Duration // before a write that has failed is tried again
	started, written := false, false
	for {
		select {
		case <-ctx.Done():
			return
		case ev := <-k.newest:
			list = ev.Peers
			if ev.TTL > 0 {
				whole = k.earlier.timeout(ev.TTL, ev.Age)
			}
			if started && k.to.settle > 0 {
				if settled == nil {
					settled = time.After(k.to.settle)
				}
				continue
			}
			started = true
		case <-settled:
		case <-again:
		case <-whole:
			k.earlier = earlier{}
		}
		settled, again = nil, nil
		changed, err := k.write(list)
		if err != nil {
			pause = longer(pause)
			again = time.After(pause)
			k.s.note("%v; the file stays as it is; trying again in %v, or when the list changes", err, pause)
			continue
		}
		pause = 0
		if (changed || !written) && k.runs != nil {
			_ = k.runs.show(announce.Event{Peers: list})
		}
		written = true
	}
}

// write writes the file, and reports whether it has changed. Without --to there is always a change.
func (k *keeper) write(list []netip.AddrPort) (changed bool, err error) {
	if k.to.name == "" {
		return true, nil
	}
	rows := output.Rows(list)
	k.labels.fill(rows)
	texts, failed := k.template.Texts(rows...)
	if failed != nil {
		k.s.note("--format: %v", failed)
	}
	return k.to.write(k.earlier.merge(texts))
}

// writeOnce writes the list of a barrier to the file.
func (o *watchOptions) writeOnce(peers []netip.AddrPort) error {
	rows := output.Rows(peers)
	o.labels.fill(rows)
	texts, err := o.template.Texts(rows...)
	if err != nil {
		return fmt.Errorf("--format: %w", err)
	}
	_, err = o.to.write(texts)
	return err
}

// write writes the header and the texts.
func (to *toFileOptions) write(texts []string) (changed bool, err error) {
	if changed, err = to.file.write(to.header + strings.Join(texts, "")); err != nil {
		return false, to.failed(err)
	}
	return changed, nil
}

// earlier is what an earlier process has written to the file. If the tracker was started again at the
// same time, it does not know all peers yet, and so their texts stay for one ttl. But a peer that this
// process has seen counts as gone when it is gone.
type earlier struct {
	texts []string
	seen  map[string]int // how many peers with this text there were at the same time
}

// timeout returns a channel that receives when the earlier texts no longer count, after a whole list from a
// tracker with this ttl. Its age is 0 if the tracker does not report it. If no text counts any more, the
// channel is nil.
func (e *earlier) timeout(ttl, age time.Duration) <-chan time.Time {
	if age >= ttl { // at once, so that CMD does not run for peers that are gone
		*e = earlier{}
	}
	if len(e.texts) == 0 {
		return nil
	}
	return time.After(ttl - age)
}

// merge adds the earlier texts to those of now, in the order of the file.
func (e *earlier) merge(now []string) []string {
	if len(e.texts) == 0 {
		return now
	}
	count := make(map[string]int)
	for _, text := range now {
		count[text]++
	}
	if e.seen == nil {
		e.seen = make(map[string]int)
	}
	stays := make(map[string]int) // how many of each earlier text stay in their place
	for _, text := range e.texts {
		stays[text]++
	}
	for text, n := range count {
		e.seen[text] = max(e.seen[text], n)
	}
	unseen := 0
	for text, n := range stays {
		missing := max(0, n-e.seen[text])
		unseen += missing
		stays[text] = min(n, missing+count[text])
	}
	if unseen == 0 { // all have been seen
		*e = earlier{}
		return now
	}
	var all []string
	placed := maps.Clone(stays)
	for _, text := range e.texts {
		if stays[text] > 0 {
			stays[text]--
			all = append(all, text)
		}
	}
	for _, text := range now {
		if placed[text] > 0 {
			placed[text]--
			continue
		}
		all = append(all, text)
	}
	return all
}
