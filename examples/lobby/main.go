// Command lobby is how a game finds its players, and they a game.
//
//	go run ./examples/lobby host duel 2     # a server with 2 seats, listed while one is free
//	go run ./examples/lobby play duel       # joins the first server that has a seat for it
//
// `ntrack serve` has to run, or $NTRACK_TRACKER to name a tracker. Ctrl-C leaves. The game itself is
// up to you: this one only says welcome.
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
	"ntrack/announce/wire"
)

func main() {
	log.SetFlags(0)
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	l := &lobby{out: os.Stdout}
	var err error
	switch args := os.Args[1:]; {
	case len(args) == 3 && args[0] == "host":
		seats, bad := strconv.Atoi(args[2])
		if bad != nil || seats < 1 {
			log.Fatalf("%q seats: a number from 1", args[2])
		}
		if err = l.find(os.Getenv("NTRACK_TRACKER"), args[1]); err == nil {
			err = l.host(ctx, seats)
		}
	case len(args) == 2 && args[0] == "play":
		if err = l.find(os.Getenv("NTRACK_TRACKER"), args[1]); err == nil {
			err = l.play(ctx)
		}
	default:
		log.Fatal("usage: lobby host KEY SEATS, or lobby play KEY")
	}
	if err != nil && ctx.Err() == nil {
		log.Fatal(err)
	}
}

// A lobby is a key at a tracker. Those listed there are servers with a free seat.
type lobby struct {
	client   announce.Client
	trackers []announce.Tracker
	key      announce.Key
	out      io.Writer
}

func (l *lobby) find(tracker, key string) error {
	t, err := announce.ParseTracker(tracker)
	if err != nil {
		return err
	}
	l.trackers = []announce.Tracker{t}
	l.key, err = announce.ParseKey(key)
	return err
}

// host has seats for players, and is listed while one of them is free.
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
	unlist := l.list(ctx, request)
	defer func() { unlist() }()
	for taken := 0; ; {
		select {
		case player, ok := <-players:
			switch {
			case !ok:
				return ctx.Err()
			case taken == seats:
				_ = player.Close() // came by a list from before
				continue
			}
			taken++
			go l.seat(ctx, player, fmt.Sprintf("welcome, %d of %d", taken, seats), left)
			if taken == seats {
				unlist()
			}
			fmt.Fprintf(l.out, "%d of %d seats taken\n", taken, seats)
		case <-left:
			if taken--; taken == seats-1 {
				unlist = l.list(ctx, request)
			}
			fmt.Fprintf(l.out, "%d of %d seats taken\n", taken, seats)
		}
	}
}

// list keeps a server listed until the function it returns is called.
func (l *lobby) list(ctx context.Context, r announce.Request) (unlist func()) {
	m, err := l.client.Join(ctx, l.trackers, r, func(_ announce.Event, err error) {
		if err != nil {
			fmt.Fprintln(l.out, err) // and it tries again
		}
	})
	if err != nil {
		fmt.Fprintln(l.out, err)
		return func() {}
	}
	return func() { _ = m.Leave(context.WithoutCancel(ctx)) }
}

// seat has a player until he hangs up.
func (l *lobby) seat(ctx context.Context, player net.Conn, welcome string, left chan<- struct{}) {
	defer context.AfterFunc(ctx, func() { _ = player.Close() })()
	fmt.Fprintln(player, welcome)
	_, _ = io.Copy(io.Discard, player) // here is your game
	_ = player.Close()
	select {
	case left <- struct{}{}:
	case <-ctx.Done():
	}
}

// play sits down at the first server that has a seat, and waits for one if it has to.
func (l *lobby) play(ctx context.Context) error {
	fmt.Fprintln(l.out, "looking for a free seat")
	for event, err := range l.client.Watch(ctx, l.trackers, announce.Request{Key: l.key}) {
		if err != nil {
			fmt.Fprintln(l.out, err) // and it tries again
			continue
		}
		for _, i := range rand.Perm(len(event.Peers)) { // so that not everybody runs to the same
			server, welcome, err := sitDown(ctx, event.Peers[i])
			if err != nil {
				continue
			}
			defer server.Close()
			defer context.AfterFunc(ctx, func() { _ = server.Close() })()
			fmt.Fprintf(l.out, "%v: %s\n", event.Peers[i], wire.Clean(welcome))
			_, err = io.Copy(io.Discard, server) // here is your game
			return err
		}
	}
	return ctx.Err()
}

// sitDown gives a server a second to say welcome.
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
