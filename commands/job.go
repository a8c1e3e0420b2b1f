package commands

import (
	"context"
	"net/netip"
	"slices"
	"strconv"
	"time"

	"github.com/urfave/cli/v2"

	"ntrack/announce"
)

// `ntrack watch KEY --port N --min M -- COMMAND ARGS...` runs the COMMAND once M peers are there, with
// its rank in the environment. It stays a member while the COMMAND runs, and ends with the same exit
// code.

type jobOptions struct {
	command []string // nil without a COMMAND
	anyPort bool     // --port 0
	kill    bool     // --on-leave kill
}

func (o *watchOptions) buildJob(c *cli.Context) error {
	o.job.command = lineOf(c).command
	if o.job.command == nil {
		if c.IsSet("on-leave") {
			return usage(c, "--on-leave needs --min and a COMMAND after `--`")
		}
		return nil
	}
	switch what := c.String("on-leave"); what {
	case "kill", "keep":
		o.job.kill = what == "kill"
	default:
		return usage(c, "--on-leave %q: kill or keep", shown(what))
	}
	switch {
	case o.barrier.min == 0:
		return usage(c, "a COMMAND needs --min N: it starts when N peers are there (--exec CMD runs for each change)")
	case o.request.Port == 0 && !o.job.anyPort:
		return usage(c, "a COMMAND needs --port N, or --port 0 for any free port, to say where it is reached")
	}
	for _, name := range []string{"output", "quiet", "format"} {
		if c.IsSet(name) && !(name == "format" && c.IsSet("to")) {
			return usage(c, "--%s and a COMMAND exclude each other: standard output is the COMMAND's alone", name)
		}
	}
	return nil
}

// runJob runs the COMMAND after the members have met. It leaves when the COMMAND has ended, but not before
// the slowest of the others has found this peer.
func (o *watchOptions) runJob(c *cli.Context, s Streams, g *announce.Gathering, news func(announce.Event, error) error) error {
	run, err := startCommand(c.Context, s, o.job.command, append(o.environ(), jobVariables(g.Peers, g.Rank)...))
	lost := false
	if err == nil {
		lost = o.followJob(c.Context, run, g, news)
		err = run.result()
	}
	run.stay(c.Context, g.StayUntil())
	waited, cancel := context.WithCancel(c.Context)
	cancel()
	left := make(chan error, 1)
	go func() { left <- g.Leave(waited) }()
	run.awaitLeft(left)
	if lost {
		return loggedError{errMemberLost} // a note has named the member
	}
	return err
}

// followJob waits until the COMMAND has ended, and prints notes about the tracker meanwhile. It returns
// true if a member was lost, and the COMMAND was ended because of that.
func (o *watchOptions) followJob(ctx context.Context, run *running, g *announce.Gathering, news func(announce.Event, error) error) (lost bool) {
	reasons := make(chan ending, 1)
	roll := rollCall{met: slices.Delete(slices.Clone(g.Peers), g.Rank, g.Rank+1), lost: reasons}
	following, stop := context.WithCancel(ctx)
	followed := make(chan struct{})
	go func() {
		defer close(followed)
		g.Follow(following, func(ev announce.Event, err error) {
			_ = news(ev, err) // prints notes
			if o.job.kill {
				roll.call(ev, err)
			}
		})
	}()
	lost = run.await(ctx, reasons)
	stop()
	<-followed
	roll.end()
	return lost
}

// lossTime is how long a member may be gone before it is lost. Within this time a member whose
// connection broke joins again, and the parts of a job that end together end by themselves.
const lossTime = time.Second

// A rollCall finds out which of the members that met are lost. A tracker that was away says nothing about
// them: after that they have a ttl to join again.
type rollCall struct {
	met  []netip.AddrPort // without this process
	lost chan<- ending

	gone    map[netip.AddrPort]*time.Timer // members that are missing now, but not lost yet
	away    bool                           // the tracker does not answer
	lenient time.Time                      // until then nobody is lost, because the tracker was away
}

// call takes the next event or error of a watch. Calls must not overlap.
func (r *rollCall) call(ev announce.Event, err error) {
	if err != nil {
		r.away = true
		r.end()
		return
	}
	if r.away && ev.Type == announce.EventPeers {
		r.away, r.lenient = false, time.Now().Add(ev.TTL)
	}
	if r.away {
		return
	}
	for _, p := range r.met {
		_, here := slices.BinarySearchFunc(ev.Peers, p, netip.AddrPort.Compare)
		switch timer := r.gone[p]; {
		case here && timer != nil:
			timer.Stop()
			delete(r.gone, p)
		case !here && timer == nil:
			if r.gone == nil {
				r.gone = make(map[netip.AddrPort]*time.Timer)
			}
			r.gone[p] = time.AfterFunc(max(lossTime, time.Until(r.lenient)), func() {
				select {
				case r.lost <- ending{"lost " + p.String(), "--on-leave"}:
				default: // another one is enough
				}
			})
		}
	}
}

// end stops all timers.
func (r *rollCall) end() {
	for _, timer := range r.gone {
		timer.Stop()
	}
	clear(r.gone)
}

// jobVariables are the variables for rank number rank of the peers. Those without a prefix are the ones
// that torch.distributed and others read.
func jobVariables(peers []netip.AddrPort, rank int) []string {
	local := 0 // the number of peers with the same address and a lower rank
	texts := make([]string, len(peers))
	for i, p := range peers {
		if texts[i] = p.String(); i < rank && p.Addr() == peers[rank].Addr() {
			local++
		}
	}
	first := peers[0]
	return withPeers([]string{
		"NTRACK_RANK=" + strconv.Itoa(rank),
		"NTRACK_SIZE=" + strconv.Itoa(len(peers)),
		portVariable(peers[rank].Port()),
		"RANK=" + strconv.Itoa(rank),
		"WORLD_SIZE=" + strconv.Itoa(len(peers)),
		"LOCAL_RANK=" + strconv.Itoa(local),
		"MASTER_ADDR=" + first.Addr().String(),
		"MASTER_PORT=" + strconv.Itoa(int(first.Port())),
	}, texts)
}
