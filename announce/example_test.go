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

// A service stays announced for as long as it runs, while somebody watches.
func ExampleClient_Join() {
	local := trackertest.New()
	defer local.Close()
	key, err := announce.ParseKey("lobby")
	if err != nil {
		log.Fatal(err)
	}

	var client announce.Client
	trackers := []announce.Tracker{local.Tracker} // any number of them
	staying, leave := context.WithCancel(context.Background())
	left := make(chan error)
	go func() {
		left <- client.Join(staying, trackers, announce.Request{Key: key, Port: 4000}, func(_ announce.Event, err error) {
			if err != nil {
				log.Print(err) // and the stay goes on
			}
		})
	}()

	for event, err := range client.Watch(context.Background(), trackers, announce.Request{Key: key}, 50*time.Millisecond) {
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
	leave()
	fmt.Println(<-left)
	// Output:
	// 127.0.0.1:4000 is here
	// <nil>
}
