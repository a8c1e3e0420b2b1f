// Package wire has the types and the bytes that clients and trackers send each other. It does no I/O.
// Both ends use it, so they cannot disagree.
//
// # The protocol
//
// docs/PROTOCOL.md is the specification. Each rule in it has one or more vectors, which are files in
// testdata/vectors that show the rule as bytes. The main rules, with the names of some vectors, are:
//
//   - A track is the set of peers that have announced the same key. GET /ntrk/KEY announces KEY: the
//     client joins the track, or stays in it, and gets other peers (proposal-example). The key is
//     everything after /ntrk/, percent-decoded once: 1 to 255 opaque bytes (key-decoding, key-length).
//   - The tracker lists the client with the source address of the connection. The port is the source
//     port, or the parameter port (port-of-origin). A client cannot list another address
//     (parameter-ignored).
//   - An endpoint is one peer. If it announces again, it stays in the track for another ttl (renewal).
//   - With port=0 a client gets peers without joining (look-port-0). DELETE leaves the track (leave). The
//     tracker also removes a peer that does not announce again within the ttl (expiry-native).
//   - The scope of an address is how far it reaches. A client gets peers of its own scope and of wider
//     scopes: a client on the internet does not get 127.0.0.1 or 10.0.0.7 (scope-public-asker).
//   - A web page can only look (browser-origin).
//   - Replies are bencode, JSON or text (format-over-accept, accept).
//   - With Accept: text/event-stream the reply is a stream of events. The client is a peer as long as
//     its connection lasts, and the tracker reports each peer that joins or leaves (stream,
//     stream-overlap).
//   - BitTorrent clients find the same tracks at /announce and /scrape (classic-compact, scrape).
//
// # Both ends
//
// A client writes a request with [Request.URL], and a tracker reads it with [Request.Parse]. The
// tracker writes the reply with [Request.AppendReply] or [RefusalError.Append]. The client reads both
// with [Request.DecodeReply].
//
// A tracker writes a list of tracks with [AppendTracks] and a stream of events with [AppendYou] and
// [AppendEvent]. A client reads them with [DecodeTracks] and an [EventReader].
package wire
