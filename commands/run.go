package commands

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	"ntrack/announce"
	"ntrack/commands/process"
)

// `ntrack announce KEY --port N -- COMMAND ARGS...` announces the COMMAND once its port can be
// reached, and until it ends. Then ntrack ends with the same exit code. ntrack itself ends the
// COMMAND only with --on-lost kill.

func commandFlags() []cli.Flag {
	return []cli.Flag{
		&cli.StringFlag{Name: "ready", Value: "30s", Usage: "join once COMMAND accepts connections at the port, with a note if it does not within `D`; or udp: once the port is bound, or none: at once"},
		&cli.StringFlag{Name: "on-lost", Value: "keep", Usage: "`WHAT` to do with COMMAND when the tracker has been away for a whole ttl: keep or kill it"},
	}
}

type commandOptions struct {
	command    []string // nil without a COMMAND
	anyPort    bool     // --port 0
	ready      readiness
	killOnLost bool
}

func (o *announceOptions) buildCommand(c *cli.Context) (err error) {
	o.command = lineOf(c).command
	if o.command == nil {
		for _, name := range []string{"ready", "on-lost"} {
			if c.IsSet(name) {
				return usage(c, "--%s needs a COMMAND after `--`", name)
			}
		}
		return nil
	}
	if c.IsSet("wait") {
		return usage(c, "a COMMAND needs no --wait: it starts at once, and joins when the tracker is there")
	}
	for _, name := range []string{"leave", "numwant", "output", "format", "quiet"} {
		if c.IsSet(name) {
			return usage(c, "--%s and a COMMAND exclude each other: standard output is the COMMAND's alone", name)
		}
	}
	if o.port() == 0 && !o.anyPort {
		return usage(c, "a COMMAND needs --port N, to say where it is reached")
	}
	if o.ready, err = parseReadiness(c.String("ready")); err != nil {
		return usage(c, "%v", err)
	}
	switch what := c.String("on-lost"); what {
	case "kill", "keep":
		o.killOnLost = what == "kill"
	default:
		return usage(c, "--on-lost %q: kill or keep", shown(what))
	}
	o.request.Want = announce.NoPeers
	return nil
}

func (o *announceOptions) runCommand(c *cli.Context, s Streams) error {
	free, err := pickPort(o.anyPort, &o.request)
	if err != nil {
		return err
	}
	defer free.Release()
	o.ready.port = o.port()
	// The COMMAND runs even if no tracker answers. So the lookout begins as if a tracker had
	// answered: an error is then a note, and does not end the command.
	look := lookout{s: s, client: &o.client, serve: o.serve, answered: true}
	defer look.end()
	if err := look.begin(c); err != nil {
		return err
	}
	self, err := newSelfFile()
	if err != nil {
		s.note("no NTRACK_SELF_FILE: %v", err)
	}
	defer self.remove()
	free.Release()
	run, err := startCommand(c.Context, s, o.command, append(o.environ(), portVariable(o.port()), "NTRACK_SELF_FILE="+self.path()))
	if err != nil {
		return err
	}

	ctx, leave := context.WithCancel(context.WithoutCancel(c.Context))
	defer leave()
	left, lost := make(chan error, 1), make(chan ending, 1)
	go func() {
		tidySelfFiles()
		left <- o.beMember(ctx, s, &look, self, lost)
	}()
	run.await(c.Context, lost)
	leave()
	run.awaitLeft(left)
	return run.result()
}

// port is the port of the peer, or 0 if neither --port nor --from has named one.
func (o *announceOptions) port() uint16 { return cmp.Or(o.request.Port, o.From.Port()) }

// readiness says when the COMMAND can be reached. The zero readiness means at once.
type readiness struct {
	check    func(ctx context.Context, port uint16) bool
	port     uint16        // set when the command begins
	notYet   string        // what the note says about a port that fails the check
	patience time.Duration // the time until the note
}

// parseReadiness reads the value of --ready. The port is for the caller to set.
func parseReadiness(s string) (readiness, error) {
	switch s {
	case "none":
		return readiness{}, nil
	case "udp":
		return readiness{check: process.BoundUDP, notYet: "is not bound yet", patience: 30 * time.Second}, nil
	}
	d, err := parseDuration(s)
	if err != nil || d <= 0 {
		return readiness{}, fmt.Errorf("--ready %q: a duration such as 30s, udp or none", shown(s))
	}
	return readiness{check: process.AcceptsTCP, notYet: "accepts no connections yet (over UDP it needs --ready udp)", patience: d}, nil
}

// await waits until the COMMAND can be reached, and returns true. If ctx ends first, it returns
// false.
func (r readiness) await(ctx context.Context, s Streams) bool {
	if r.check == nil {
		return true
	}
	return process.AwaitReady(ctx, func(ctx context.Context) bool { return r.check(ctx, r.port) }, r.patience, func() {
		s.note("port %d %s after %v: it is not listed yet", r.port, r.notYet, r.patience)
	})
}

// beMember joins once the COMMAND is ready, and leaves when ctx ends. With --on-lost kill it sends on
// lost when all trackers have been away for a whole ttl.
func (o *announceOptions) beMember(ctx context.Context, s Streams, look *lookout, self *selfFile, lost chan<- ending) error {
	if !o.ready.await(ctx, s) {
		return nil
	}
	defer o.enterMembers(ctx, s, o.request)()
	absence := absence{lost: lost}
	news := func(ev announce.Event, err error) {
		switch {
		case is[*announce.SharedError](err): // it may be the program that this one replaces
			s.note("%v", err)
			return
		case err != nil:
			_ = look.requestFailed(ev.Tracker, err)
			if len(look.failing) == len(o.trackers) {
				absence.begin()
			}
			return
		case ev.Type != announce.EventPeers:
			return
		}
		look.requestAnswered(ev.Tracker)
		absence.end()
		if o.killOnLost {
			absence.ttl = ev.TTL
		}
		if err := self.write(ev.You); err != nil {
			s.note("NTRACK_SELF_FILE: %v", err)
		}
	}
	for pause := time.Duration(0); ; {
		m, err := o.Join(ctx, o.trackers, o.request, news)
		if err != nil {
			return err
		}
		<-m.Done()
		if m.Err() == nil {
			return m.Leave(ctx)
		}
		// Every tracker has refused the peer. The COMMAND still runs, so ntrack tries again.
		pause = min(longer(pause), 15*time.Second)
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(pause/2 + rand.N(pause/2)):
		}
	}
}

// An absence is a time in which all trackers are away. It sends on lost after a whole ttl, but not
// earlier: a tracker that restarts is away only for a moment, and watchers keep its peers for a ttl,
// too.
type absence struct {
	ttl   time.Duration // 0 until a tracker has answered; until then begin does nothing
	timer *time.Timer   // nil while a tracker answers
	lost  chan<- ending
}

func (a *absence) begin() {
	if a.ttl == 0 || a.timer != nil {
		return
	}
	a.timer = time.AfterFunc(a.ttl, func() {
		select {
		case a.lost <- ending{"the tracker has been away for a whole ttl", "--on-lost"}:
		default: // the receiver has not read about the last absence yet
		}
	})
}

func (a *absence) end() {
	if a.timer != nil {
		a.timer.Stop()
		a.timer = nil
	}
}

// A selfFile is the file in which the COMMAND finds its own endpoints, as the trackers report them.
// It does not exist before the peer has joined. Only this user can use its directory, which is locked
// as long as this process lives. The methods of a nil selfFile do nothing.
type selfFile struct {
	dir, text string
	lock      *os.File // nil on systems without locks on directories
}

const (
	selfPrefix = "ntrack-self-"
	selfName   = "self"
)

// errDirTaken says that another process has locked a directory or replaced it, or that other users can
// use it.
var errDirTaken = errors.New("the directory is another process's")

func newSelfFile() (*selfFile, error) {
	for {
		dir, err := os.MkdirTemp("", selfPrefix)
		if err != nil {
			return nil, err
		}
		lock, err := lockDir(dir)
		if !errors.Is(err, errDirTaken) && !errors.Is(err, fs.ErrNotExist) {
			return &selfFile{dir: dir, lock: lock}, nil
		}
		_ = os.Remove(dir) // before it was locked, another ntrack began to tidy it up
	}
}

func (f *selfFile) path() string {
	if f == nil {
		return ""
	}
	return filepath.Join(f.dir, selfName)
}

func (f *selfFile) write(you []netip.AddrPort) error {
	var text strings.Builder
	for _, a := range you {
		fmt.Fprintln(&text, a)
	}
	if f == nil || text.String() == f.text {
		return nil
	}
	f.text = text.String()
	return writeFile(f.path(), f.text, 0o600)
}

func (f *selfFile) remove() {
	if f == nil {
		return
	}
	_ = os.RemoveAll(f.dir)
	if f.lock != nil {
		_ = f.lock.Close()
	}
}

// tidySelfFiles removes the directories of processes that were killed. It removes a directory only if
// this user owns it, if it has no lock, and if all names in it are those of a selfFile.
func tidySelfFiles() {
	temp := os.TempDir()
	entries, _ := os.ReadDir(temp)
	for _, e := range entries {
		number, found := strings.CutPrefix(e.Name(), selfPrefix)
		if !found || !e.IsDir() || strings.Trim(number, "0123456789") != "" {
			continue
		}
		dir := filepath.Join(temp, e.Name())
		f, err := lockDir(dir)
		if err != nil {
			continue
		}
		names, err := f.Readdirnames(-1)
		others := slices.ContainsFunc(names, func(n string) bool { return n != selfName && !strings.HasPrefix(n, tempPrefix) })
		if err == nil && !others {
			for _, name := range names {
				_ = removeIn(f, name)
			}
			_ = os.Remove(dir)
		}
		_ = f.Close()
	}
}
