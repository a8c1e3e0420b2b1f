// Package wire is the ntrack protocol as bytes and types: what clients and trackers send each other.
// It does no I/O. Both ends use it, so that they cannot disagree.
//
// # The protocol
//
// docs/PROTOCOL.md is the specification. Each of its rules names a vector in testdata/vectors, a file
// that shows the rule as bytes. In short, with the names of some vectors:
//
//   - GET /ntrk/KEY joins the track of KEY, or renews, and gets other peers (proposal-example). The key
//     is everything after /ntrk/, percent-decoded once: 1 to 255 opaque bytes (key-decoding,
//     key-length).
//   - The sender is listed with the address from which it connects, and the port of the connection or
//     of port= (port-of-origin). Nobody can list a third party (parameter-ignored).
//   - A peer is its endpoint. An endpoint that announces again is renewed (renewal).
//   - port=0 gets peers without joining (look-port-0). DELETE leaves (leave), and so does a peer that
//     does not announce for the ttl (expiry-native).
//   - An asker gets peers of its own scope and wider ones. On the internet nobody gets 127.0.0.1 or
//     10.0.0.7 (scope-public-asker). A web page can only look (browser-origin).
//   - Replies are bencode, JSON or text (format-over-accept, accept).
//   - With Accept: text/event-stream the reply is a stream of events. The sender is a peer as long as
//     its connection lasts, and the tracker reports who joins and leaves (stream, stream-overlap).
//   - BitTorrent clients find the same tracks at /announce and /scrape (classic-compact, scrape).
//
// # Both ends
//
// A client writes a request with [Request.URL], and a tracker reads it with [Request.Parse]. The
// tracker writes the reply with [Request.AppendReply], or [RefusalError.Append], and the client reads
// both with [Request.DecodeReply]. [AppendTracks] and [DecodeTracks] are the same for the list of
// tracks, and [EventWriter] and [EventReader] for the stream of events.
package wire
