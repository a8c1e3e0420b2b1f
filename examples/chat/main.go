// Command chat is a chat without a server: each line goes straight to all other members of a key. The
// tracker only lists them. Run this in any number of terminals, and `ntrack serve` in one more:
//
//	go run ./examples/chat lobby
//
// For a tracker on another machine set $NTRACK_TRACKER. Ctrl-C or Ctrl-D leaves.
package main

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"log"
	"net"
	"net/netip"
	"os"
	"os/signal"
	"slices"
	"sync/atomic"

	"ntrack/announce"
)

func main() {
	log.SetFlags(0)
	if len(os.Args) != 2 {
		log.Fatal("usage: chat KEY")
	}
	trackers, err := announce.ParseTrackers(os.Getenv("NTRACK_TRACKER"))
	if err != nil {
		log.Fatal(err)
	}
	key, err := announce.ParseKey(os.Args[1])
	if err != nil {
		log.Fatal(err)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := chat(ctx, trackers, key, os.Stdin, os.Stdout); err != nil {
		log.Fatal(err)
	}
}

// chat sends each line of in to all other members, and writes their lines to out, until in or ctx ends.
func chat(ctx context.Context, trackers []announce.Tracker, key announce.Key, in io.Reader, out io.Writer) error {
	socket, err := net.ListenUDP("udp4", nil)
	if err != nil {
		return err
	}
	defer socket.Close()
	ctx, leave := context.WithCancel(ctx)
	defer leave()

	var peers atomic.Pointer[[]netip.AddrPort]
	peers.Store(new([]netip.AddrPort))
	go func() { // receive lines
		buf := make([]byte, 64<<10)
		for {
			n, from, err := socket.ReadFromUDPAddrPort(buf)
			if err != nil {
				return
			}
			if slices.Contains(*peers.Load(), from) {
				fmt.Fprintf(out, "%v: %q\n", from, buf[:n]) // quoted, to be safe for a terminal
			}
		}
	}()
	go func() { // send lines
		defer leave()
		for lines := bufio.NewScanner(in); lines.Scan(); {
			for _, peer := range *peers.Load() {
				_, _ = socket.WriteToUDPAddrPort(lines.Bytes(), peer)
			}
		}
	}()

	// The socket is for IPv4, so announce this peer over IPv4 only.
	client := announce.Client{From: netip.AddrPortFrom(netip.IPv4Unspecified(), 0)}
	port := uint16(socket.LocalAddr().(*net.UDPAddr).Port)
	for event, err := range client.Watch(ctx, trackers, announce.Request{Key: key, Port: port}) {
		if err != nil {
			fmt.Fprintln(out, "*", err) // the chat goes on
			continue
		}
		peers.Store(&event.Peers)
		switch event.Type {
		case announce.EventPeers:
			fmt.Fprintln(out, "* here:", event.Peers)
		case announce.EventJoin:
			fmt.Fprintln(out, "*", event.Peer, "joins")
		case announce.EventLeave:
			fmt.Fprintln(out, "*", event.Peer, "leaves")
		}
	}
	return nil
}
