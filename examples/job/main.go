// Command job is a computation across processes that only share a key. In four shells, on one
// machine or on four, the same line:
//
//	go run ./examples/job sum 4
//
// They wait for each other, agree on who is which by the list they all have, and add up the squares
// of 1 to 1,000,000, a quarter each. `ntrack serve` has to run, or $NTRACK_TRACKER to name a tracker.
package main

import (
	"context"
	"fmt"
	"io"
	"log"
	"net"
	"net/netip"
	"os"
	"os/signal"
	"strconv"

	"ntrack/announce"
)

func main() {
	log.SetFlags(0)
	if len(os.Args) != 3 {
		log.Fatal("usage: job KEY SIZE")
	}
	size, err := strconv.Atoi(os.Args[2])
	if err != nil || size < 1 {
		log.Fatalf("size %q: a number from 1", os.Args[2])
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := job(ctx, os.Getenv("NTRACK_TRACKER"), os.Args[1], size, os.Stdout); err != nil {
		log.Fatal(err)
	}
}

// job is one of size processes.
func job(ctx context.Context, tracker, name string, size int, out io.Writer) error {
	t, err := announce.ParseTracker(tracker)
	if err != nil {
		return err
	}
	key, err := announce.ParseKey(name)
	if err != nil {
		return err
	}
	listener, err := net.Listen("tcp4", ":0")
	if err != nil {
		return err
	}
	defer listener.Close()
	defer context.AfterFunc(ctx, func() { _ = listener.Close() })()

	// The barrier: from here on everybody is there, and knows the same list.
	client := announce.Client{From: netip.AddrPortFrom(netip.IPv4Unspecified(), 0)}
	request := announce.Request{Key: key, Port: uint16(listener.Addr().(*net.TCPAddr).Port)}
	all, err := client.Gather(ctx, t, request, size, func(_ announce.Event, err error) {
		if err != nil {
			fmt.Fprintln(out, err) // and it tries again
		}
	})
	if err != nil {
		return err
	}
	defer all.Leave(ctx)
	if len(all.Peers) != size {
		return fmt.Errorf("%d processes, and not %d: another job has this key", len(all.Peers), size)
	}
	rank := all.Rank

	part := int64(0)
	for n := int64(1 + rank); n <= 1_000_000; n += int64(size) {
		part += n * n
	}
	total := int64(0)
	if rank == 0 {
		total, err = collect(listener, size-1, part)
	} else {
		total, err = contribute(ctx, all.Peers[0], part)
	}
	if err != nil {
		return err
	}
	fmt.Fprintf(out, "rank %d of %d: my part is %d, the sum %d\n", rank, size, part, total)
	return nil
}

// collect adds the parts of so many others to its own and tells them the sum.
func collect(listener net.Listener, others int, total int64) (int64, error) {
	var told []io.Writer
	for range others {
		conn, err := listener.Accept()
		if err != nil {
			return 0, err
		}
		defer conn.Close()
		var part int64
		if _, err := fmt.Fscanln(conn, &part); err != nil {
			return 0, err
		}
		total += part
		told = append(told, conn)
	}
	_, err := fmt.Fprintln(io.MultiWriter(told...), total)
	return total, err
}

// contribute gives a part to rank 0, and is told the sum.
func contribute(ctx context.Context, to netip.AddrPort, part int64) (total int64, err error) {
	conn, err := new(net.Dialer).DialContext(ctx, "tcp", to.String())
	if err != nil {
		return 0, err
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { _ = conn.Close() })()
	if _, err := fmt.Fprintln(conn, part); err != nil {
		return 0, err
	}
	_, err = fmt.Fscanln(conn, &total)
	return total, err
}
