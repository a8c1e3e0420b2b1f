package announce_test

import (
	"context"
	"errors"
	"fmt"
	"log"
	"net/netip"
	"time"

	"ntrack/announce"
	"ntrack/tracker/trackertest"
)

// Two peers find each other under a key.
func Example() {
	// This tracker runs inside the program. Use announce.ParseTracker("tracker.example") for
	// another one.
	local := trackertest.New()
	defer local.Close()
	key, err := announce.ParseKey("lobby")
	if err != nil {
		log.Fatal(err)
	}

	var client announce.Client
	for _, port := range []uint16{4000, 4001} {
		reply, err := client.Announce(context.Background(), local.Tracker, announce.Request{Key: key, Port: port})
		if err != nil {
			log.Fatal(err)
		}
		fmt.Println("I am", reply.You)
		for _, peer := range reply.Peers {
			fmt.Println("dial", peer)
		}
	}
	// Output:
	// I am 127.0.0.1:4000
	// I am 127.0.0.1:4001
	// dial 127.0.0.1:4000
}

// A service is listed for as long as it runs. Another program watches the track.
func ExampleClient_Join() {
	local := trackertest.New()
	defer local.Close()
	key, err := announce.ParseKey("lobby")
	if err != nil {
		log.Fatal(err)
	}

	ctx := context.Background()
	var client announce.Client
	trackers := []announce.Tracker{local.Tracker} // one or more
	membership, err := client.Join(ctx, trackers, announce.Request{Key: key, Port: 4000}, func(_ announce.Event, err error) {
		if err != nil {
			log.Print(err) // the membership goes on
		}
	})
	if err != nil {
		log.Fatal(err)
	}

	for event, err := range client.Watch(ctx, trackers, announce.Request{Key: key}) {
		if err != nil {
			log.Print(err) // the watch goes on
			continue
		}
		for _, peer := range event.Peers {
			fmt.Println(peer, "is here")
		}
		if len(event.Peers) > 0 {
			break
		}
	}

	soon, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	if err := membership.Leave(soon); err != nil {
		log.Print(err) // the tracker removes the peer after the ttl
	}
	// Output:
	// 127.0.0.1:4000 is here
}

// A program that is listed while it runs, and follows the others.
func ExampleClient_Watch() {
	local := trackertest.New()
	defer local.Close()
	names := local.Tracker.String()
	ctx, stop := context.WithCancel(context.Background())
	defer stop()
	use := func(peers []netip.AddrPort) {
		fmt.Println("here:", peers)
		stop()
	}
	lobby, _ := announce.ParseKey("lobby")
	var other announce.Client
	if _, err := other.Announce(ctx, local.Tracker, announce.Request{Key: lobby, Port: 4001}); err != nil {
		log.Fatal(err)
	}

	key, err1 := announce.ParseKey("lobby")
	trackers, err2 := announce.ParseTrackers(names) // "one.example,two.example"
	if err := errors.Join(err1, err2); err != nil {
		log.Fatal(err)
	}
	var client announce.Client
	me := announce.Request{Key: key, Port: 4000}
	for event, err := range client.Watch(ctx, trackers, me) {
		if err != nil {
			log.Print(err) // the watch goes on
			continue
		}
		use(event.Peers)
	}
	// Output: here: [127.0.0.1:4001]
}

// Each of two workers waits until both are present.
func ExampleClient_Gather() {
	local := trackertest.New()
	defer local.Close()
	key, err := announce.ParseKey("job")
	if err != nil {
		log.Fatal(err)
	}

	ctx := context.Background()
	var client announce.Client
	for _, port := range []uint16{4000, 4001} {
		worker, err := client.Join(ctx, []announce.Tracker{local.Tracker}, announce.Request{Key: key, Port: port}, nil)
		if err != nil {
			log.Fatal(err)
		}
		defer worker.Leave(ctx)
	}

	all, err := client.Gather(ctx, local.Tracker, announce.Request{Key: key}, 2, nil)
	if err != nil {
		log.Fatal(err)
	}
	defer all.Leave(ctx)
	fmt.Println(all.Peers)
	// Output: [127.0.0.1:4000 127.0.0.1:4001]
}
