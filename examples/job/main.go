// Command job is a computation by processes that share only a key. Run this in four shells, on one
// machine or on four:
//
//	go run ./examples/job sum 4
//
// The processes wait for each other, and take ranks from the list that all of them get. Then each adds
// up a quarter of the squares of 1 to 1,000,000. They need `ntrack serve` on this machine, or a
// tracker in $NTRACK_TRACKER.
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
	tracker, err := announce.ParseTracker(os.Getenv("NTRACK_TRACKER"))
	if err != nil {
		log.Fatal(err)
	}
	key, err := announce.ParseKey(os.Args[1])
	if err != nil {
		log.Fatal(err)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := job(ctx, tracker, key, size, os.Stdout); err != nil {
		log.Fatal(err)
	}
}

// job is one of size processes.
func job(ctx context.Context, tracker announce.Tracker, key announce.Key, size int, out io.Writer) error {
	listener, err := net.Listen("tcp4", ":0")
	if err != nil {
		return err
	}
	defer listener.Close()
	defer context.AfterFunc(ctx, func() { _ = listener.Close() })()

	// The barrier: it waits for all processes, and gives each of them the same list.
	client := announce.Client{From: netip.AddrPortFrom(netip.IPv4Unspecified(), 0)}
	request := announce.Request{Key: key, Port: uint16(listener.Addr().(*net.TCPAddr).Port)}
	all, err := client.Gather(ctx, tracker, request, size, func(_ announce.Event, err error) {
		if err != nil {
			fmt.Fprintln(out, err) // Gather tries again
		}
	})
	if err != nil {
		return err
	}
	defer all.Leave(ctx)
	if len(all.Peers) != size {
		return fmt.Errorf("%d processes, and not %d: another job has this key", len(all.Peers), size)
	}

	part, total := int64(0), int64(0)
	for n := int64(1 + all.Rank); n <= 1_000_000; n += int64(size) {
		part += n * n
	}
	if all.Rank == 0 {
		total, err = collect(listener, size-1, part)
	} else {
		total, err = contribute(ctx, all.Peers[0], part)
	}
	if err != nil {
		return err
	}
	fmt.Fprintf(out, "rank %d of %d: my part is %d, the sum %d\n", all.Rank, size, part, total)
	return nil
}

// collect adds the parts of the other processes to total, and sends them the sum.
func collect(listener net.Listener, others int, total int64) (int64, error) {
	var conns []io.Writer
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
		conns = append(conns, conn)
	}
	_, err := fmt.Fprintln(io.MultiWriter(conns...), total)
	return total, err
}

// contribute sends a part to rank 0, and receives the sum.
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
