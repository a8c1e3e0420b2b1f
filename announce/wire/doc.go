// Package wire is the ntrack protocol as bytes and types: what a client and a tracker send each other.
// It does no I/O, and both ends use it, so that they cannot disagree.
//
// # The protocol
//
// The specification is docs/PROTOCOL.md; every rule there names the vector in testdata/vectors
// that shows its bytes. In short, with some of those:
//
// GET /ntrk/KEY lists the sender under KEY, with the address the tracker sees and the port of
// origin of the connection or port=, and answers with other peers (proposal-example). The key is
// everything after /ntrk/, percent-decoded once, 1 to 255 opaque bytes (key-decoding, key-length).
// port=0 looks and leaves no trace (look-port-0), DELETE leaves (leave), and so does a peer that
// does not announce for the ttl (expiry-native). Peers are endpoints: announced again one is
// renewed (renewal), and never is a third party enlisted (parameter-ignored).
//
// A peer is given to askers of its own scope or a narrower one: nobody on the internet is told
// 127.0.0.1 or 10.0.0.7 (scope-public-asker). What a browser sends only looks (browser-origin).
//
// Or the request goes on, as a stream of events: the sender is a peer for as long as its connection
// lives, and is told who joins and leaves (stream, stream-overlap).
//
// Replies come as bencode, JSON or text (format-over-accept, accept). The same tracks are at /announce and
// /scrape as BitTorrent has them (classic-compact, scrape).
//
// [Request.Parse] reads at the tracker what a client has written, and [Request.DecodeReply] reads at
// the client what a tracker has appended.
package wire
