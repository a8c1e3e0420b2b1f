// Command lobby is a lobby, where players find a server for their game.
//
//	go run ./examples/lobby host duel 2     # a server with 2 seats, listed while one is free
//	go run ./examples/lobby play duel       # a player, which joins the first server with a free seat
//
// It needs `ntrack serve` on this machine, or trackers in $NTRACK_TRACKER. Ctrl-C leaves. The game is
// up to you: this server only says welcome.
package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"time"

	"ntrack/announce"
)

func main() {
	log.SetFlags(0)
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	args := os.Args[1:]
	if len(args) < 2 {
		log.Fatal(usage)
	}
	l := &lobby{out: os.Stdout}
	var err error
	if l.trackers, err = announce.ParseTrackers(os.Getenv("NTRACK_TRACKER")); err != nil {
		log.Fatal(err)
	}
	if l.key, err = announce.ParseKey(args[1]); err != nil {
		log.Fatal(err)
	}
	switch {
	case len(args) == 3 && args[0] == "host":
		seats, bad := strconv.Atoi(args[2])
		if bad != nil || seats < 1 {
			log.Fatalf("%q seats: a number from 1", args[2])
		}
		err = l.host(ctx, seats)
	case len(args) == 2 && args[0] == "play":
		err = l.play(ctx)
	default:
		log.Fatal(usage)
	}
	if err != nil && ctx.Err() == nil {
		log.Fatal(err)
	}
}

const usage = "usage: lobby host KEY SEATS, or lobby play KEY"

// A lobby is a key. Its peers are the servers with a free seat.
type lobby struct {
	client   announce.Client
	trackers []announce.Tracker
	key      announce.Key
	out      io.Writer
}

// host is a server for this many players. It is listed while a seat is free.
func (l *lobby) host(ctx context.Context, seats int) error {
	listener, err := net.Listen("tcp", ":0")
	if err != nil {
		return err
	}
	defer context.AfterFunc(ctx, func() { _ = listener.Close() })()
	players, left := make(chan net.Conn), make(chan struct{})
	go func() {
		defer close(players)
		for {
			player, err := listener.Accept()
			if err != nil {
				return
			}
			players <- player
		}
	}()

	request := announce.Request{Key: l.key, Port: uint16(listener.Addr().(*net.TCPAddr).Port)}
	fmt.Fprintf(l.out, "hosting on port %d\n", request.Port)
	listing, err := l.client.Join(ctx, l.trackers, request, l.news)
	if err != nil {
		return err
	}
	defer func() { _ = listing.Leave(context.WithoutCancel(ctx)) }()
	for taken := 0; ; {
		select {
		case player, ok := <-players:
			switch {
			case !ok:
				return ctx.Err()
			case taken == seats: // the player has an old list
				_ = player.Close()
				continue
			}
			taken++
			go l.seat(ctx, player, fmt.Sprintf("welcome, %d of %d", taken, seats), left)
			if taken == seats {
				_ = listing.Leave(ctx) // if the tracker is away, it forgets this server after the ttl
			}
		case <-left:
			if taken--; taken == seats-1 {
				if listing, err = l.client.Join(ctx, l.trackers, request, l.news); err != nil {
					return err
				}
			}
		}
		fmt.Fprintf(l.out, "%d of %d seats taken\n", taken, seats)
	}
}

// news prints the errors of a membership, which goes on.
func (l *lobby) news(_ announce.Event, err error) {
	if err != nil {
		fmt.Fprintln(l.out, err)
	}
}

// seat serves a player until it hangs up.
func (l *lobby) seat(ctx context.Context, player net.Conn, welcome string, left chan<- struct{}) {
	defer context.AfterFunc(ctx, func() { _ = player.Close() })()
	fmt.Fprintln(player, welcome)
	_, _ = io.Copy(io.Discard, player) // your game goes here
	_ = player.Close()
	select {
	case left <- struct{}{}:
	case <-ctx.Done():
	}
}

// play joins the first server with a free seat. If there is none, it waits for one.
func (l *lobby) play(ctx context.Context) error {
	fmt.Fprintln(l.out, "looking for a free seat")
	for event, err := range l.client.Watch(ctx, l.trackers, announce.Request{Key: l.key}) {
		if err != nil {
			fmt.Fprintln(l.out, err) // the watch goes on
			continue
		}
		for _, i := range rand.Perm(len(event.Peers)) { // so that players spread over the servers
			server, welcome, err := sitDown(ctx, event.Peers[i])
			if err != nil {
				continue
			}
			defer server.Close()
			defer context.AfterFunc(ctx, func() { _ = server.Close() })()
			fmt.Fprintf(l.out, "%v: %q\n", event.Peers[i], welcome) // quoted, to be safe for a terminal
			_, err = io.Copy(io.Discard, server)                    // your game goes here
			return err
		}
	}
	return ctx.Err()
}

// sitDown connects to a server, which has a second to say welcome.
func sitDown(ctx context.Context, at netip.AddrPort) (net.Conn, string, error) {
	soon := time.Now().Add(time.Second)
	server, err := (&net.Dialer{Deadline: soon}).DialContext(ctx, "tcp", at.String())
	if err != nil {
		return nil, "", err
	}
	_ = server.SetReadDeadline(soon)
	line, err := bufio.NewReader(io.LimitReader(server, 100)).ReadString('\n')
	if err == nil && !strings.HasPrefix(line, "welcome") {
		err = errors.New("not this game")
	}
	if err != nil {
		_ = server.Close()
		return nil, "", err
	}
	return server, strings.TrimSpace(line), server.SetReadDeadline(time.Time{})
}
