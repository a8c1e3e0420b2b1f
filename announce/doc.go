// Package announce is the ntrack protocol and its client: how a program is listed under a key and
// finds the others there.
//
//	key, err := announce.ParseKey("lobby")
//	var c announce.Client
//	at, err := announce.ParseTracker("") // on this machine
//	reply, err := c.Announce(ctx, at, announce.Request{Key: key, Port: 4000})
//	for _, p := range reply.Peers { dial(p) }
//
// [Client.Announce] joins once, [Client.Join] stays until its context ends, [Client.Watch] tells
// who comes and goes, [Client.Gather] waits until enough are there, [Client.List] looks without
// joining. All of them speak to any tracker that [ParseTracker] can name: a native one, or a
// BitTorrent tracker over HTTP(S).
//
// The protocol is described in package wire, whose types cross the network at both ends.
package announce
