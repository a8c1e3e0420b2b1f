// Command chat is a chat without a server: each line goes straight to everybody else under a key.
// The tracker only tells who that is.
//
//	go run ./examples/chat lobby
//
// in as many terminals as you like, and `ntrack serve` in one more. Elsewhere than on one machine
// $NTRACK_TRACKER names the tracker. Ctrl-C or Ctrl-D leaves.
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
	"ntrack/announce/wire"
)

func main() {
	log.SetFlags(0)
	if len(os.Args) != 2 {
		log.Fatal("usage: chat KEY")
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := chat(ctx, os.Getenv("NTRACK_TRACKER"), os.Args[1], os.Stdin, os.Stdout); err != nil {
		log.Fatal(err)
	}
}

// chat says what it reads from in and writes what others say to out, until in or ctx ends.
func chat(ctx context.Context, tracker, name string, in io.Reader, out io.Writer) error {
	t, err := announce.ParseTracker(tracker)
	if err != nil {
		return err
	}
	key, err := announce.ParseKey(name)
	if err != nil {
		return err
	}
	// Datagrams need no connections: whoever is listed can be spoken to.
	socket, err := net.ListenUDP("udp4", nil)
	if err != nil {
		return err
	}
	defer socket.Close()
	ctx, leave := context.WithCancel(ctx)
	defer leave()

	var peers atomic.Pointer[[]netip.AddrPort]
	peers.Store(new([]netip.AddrPort))
	go func() { // what others say
		buf := make([]byte, 64<<10)
		for {
			n, from, err := socket.ReadFromUDPAddrPort(buf)
			if err != nil {
				return
			}
			if from = wire.Canonical(from); slices.Contains(*peers.Load(), from) {
				fmt.Fprintf(out, "%v: %s\n", from, wire.Clean(string(buf[:n])))
			}
		}
	}()
	go func() { // what is said here
		defer leave()
		for lines := bufio.NewScanner(in); lines.Scan(); {
			for _, peer := range *peers.Load() {
				_, _ = socket.WriteToUDPAddrPort(lines.Bytes(), peer)
			}
		}
	}()

	// The socket has one address, so be listed with that alone, in IPv4.
	client := announce.Client{From: netip.AddrPortFrom(netip.IPv4Unspecified(), 0)}
	port := uint16(socket.LocalAddr().(*net.UDPAddr).Port)
	for event, err := range client.Watch(ctx, []announce.Tracker{t}, announce.Request{Key: key, Port: port}) {
		if err != nil {
			fmt.Fprintln(out, "*", err) // and the chat goes on
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
