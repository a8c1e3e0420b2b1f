package announce_test

import (
	"context"
	"fmt"
	"log"
	"time"

	"ntrack/announce"
	"ntrack/tracker/trackertest"
)

// Two peers meet under a key.
func Example() {
	// A tracker inside this program. For any other: announce.ParseTracker("tracker.example").
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

// A service stays announced for as long as it runs, while someone else watches.
func ExampleClient_Join() {
	local := trackertest.New()
	defer local.Close()
	key, err := announce.ParseKey("lobby")
	if err != nil {
		log.Fatal(err)
	}

	ctx := context.Background()
	var client announce.Client
	trackers := []announce.Tracker{local.Tracker} // any number of them
	membership, err := client.Join(ctx, trackers, announce.Request{Key: key, Port: 4000}, func(_ announce.Event, err error) {
		if err != nil {
			log.Print(err) // and the membership goes on
		}
	})
	if err != nil {
		log.Fatal(err)
	}

	for event, err := range client.Watch(ctx, trackers, announce.Request{Key: key}) {
		if err != nil {
			log.Print(err) // and the watch goes on
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
		log.Print(err) // the tracker forgets it after the ttl
	}
	// Output:
	// 127.0.0.1:4000 is here
}

// A process waits until two workers are there.
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
