package commands

import (
	"net/netip"
	"strconv"

	"github.com/urfave/cli/v2"

	"ntrack/announce"
)

// `ntrack watch KEY --port N --min M -- COMMAND ARGS...` runs the COMMAND once M peers are there, with
// its rank in the environment. It stays a member while the COMMAND runs, and ends with the same exit
// code.

type jobOptions struct {
	command []string // nil without a COMMAND
	anyPort bool     // --port 0
}

func (o *watchOptions) buildJob(c *cli.Context) error {
	o.job.command = lineOf(c).command
	if o.job.command == nil {
		return nil
	}
	switch {
	case o.barrier.min == 0:
		return usage(c, "a COMMAND needs --min N: it starts when N peers are there (--exec CMD runs for each change)")
	case o.request.Port == 0 && !o.job.anyPort:
		return usage(c, "a COMMAND needs --port N, or --port 0 for any free port, to say where it is reached")
	}
	for _, name := range []string{"output", "quiet", "format"} {
		if c.IsSet(name) {
			return usage(c, "--%s and a COMMAND exclude each other: standard output is the COMMAND's alone", name)
		}
	}
	return nil
}

// runJob runs the COMMAND of those who have met. It leaves when the COMMAND has ended, but not before
// the slowest of the others has found this peer.
func (o *watchOptions) runJob(c *cli.Context, s Streams, g *announce.Gathering) error {
	run, err := startCommand(c.Context, s, o.job.command, append(o.environ(), jobVariables(g.Peers, g.Rank)...))
	if err != nil {
		_ = g.Leave(c.Context)
		return err
	}
	run.await(c.Context, nil)
	run.stay(c.Context, g.StayUntil())
	left := make(chan error, 1)
	go func() { left <- g.Leave(c.Context) }()
	run.awaitLeft(left)
	return run.result()
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
