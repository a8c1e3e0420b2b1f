//go:build linux

package main

import (
	"fmt"
	"slices"
	"strings"
)

// The servers that can be attacked.
const (
	ntrackServer  = "ntrack"      // `ntrack serve`
	nethttpServer = "nethttp"     // tracker.Handler in net/http
	openServer    = "opentracker" // as Debian builds it
)

var servers = []string{ntrackServer, nethttpServer, openServer}

// An attack is one row of the tables.
type attack struct {
	name  string // for -only
	title string
	// conns is how many connections the attackers have open at a time, all together.
	conns int
	// total is how many requests they send, or fewer if the time is over; 0 is as many as they can.
	total int
	// crowd is how many peers the attacked track has before.
	crowd int
	// tls says that it is at the port for TLS.
	tls bool
	// on are the servers that it applies to.
	on []string
	// script returns what the connection number n of an attacker does, for those of a server.
	script func(a *attacker, n int) script
}

// A script is what one connection of an attacker does.
type script struct {
	dialing
	out []byte
	// replies is how many replies it waits for. After them the connection sends again or ends.
	replies int
	end     ending
	// drip is sent a byte a second, after out.
	drip []byte
}

// An ending is what an attacker does with a connection that has its replies.
type ending int

const (
	sendAgain     ending = iota // the next script's bytes, over the same connection
	closeIt                     // after the replies
	resetIt                     // after the first byte, which need not be a reply
	resetAtOnce                 // when it is connected
	leaveAtOnce                 // closes it after the first byte
	keepOpen                    // until the server ends it
	keepAfterward               // the same, after one reply
)

// attackedKey is the key with the crowd and the one with changes.
const attackedKey = "crowd"

var both = []string{ntrackServer, nethttpServer}

// attacks are the rows of the table, in its order. The first two are no attacks: the second is
// processes that only use the CPU, as many as there are attackers.
var attacks = []attack{
	{name: noAttack, title: "no attack", on: servers},
	{name: hogAttack, title: "a CPU hog", on: servers},
	{name: "slow", title: "10,000 send a byte a second", conns: 10_000, on: servers, script: func(a *attacker, n int) script {
		return script{dialing: dialing{from: a.address(n)}, out: []byte("G"), drip: a.once("drip", slowRequest), end: keepOpen}
	}},
	{name: "silent", title: "10,000 send nothing", conns: 10_000, on: servers, script: func(a *attacker, n int) script {
		return script{dialing: dialing{from: a.address(n)}, end: keepOpen}
	}},
	{name: "unread", title: "10,000 ask and never read", conns: 10_000, crowd: 1000, on: both, script: func(a *attacker, n int) script {
		return script{dialing: dialing{from: a.address(n), unread: true}, end: keepOpen,
			out: a.once("looks", func() []byte { return repeat(lookRequest(true), 500) })}
	}},
	{name: "keys", title: "fresh keys, one address", conns: 64, total: 2_000_000, on: servers, script: func(a *attacker, n int) script {
		s := a.freshKeys(n, "")
		s.from = [4]byte{127, 2, 0, 1}
		return s
	}},
	{name: "keys64", title: "fresh keys, one /64", conns: 64, total: 2_000_000, on: both, script: func(a *attacker, n int) script {
		return a.freshKeys(n, fmt.Sprintf("2001:db8:1:1::%x", 1+a.index(n)%10_000))
	}},
	{name: "keys48", title: "fresh keys, 10,000 /64s", conns: 64, total: 2_000_000, on: servers, script: func(a *attacker, n int) script {
		if a.Server == openServer { // without a proxy and IPv6, 10,000 IPv4 addresses
			return a.freshKeys(n, "")
		}
		return a.freshKeys(n, fmt.Sprintf("2001:db8:%x::1", 1+a.index(n)%10_000))
	}},
	{name: "lines", title: "request lines of 64 KiB", conns: 64, on: servers, script: func(a *attacker, n int) script {
		return script{dialing: dialing{from: a.address(n)}, replies: 1, end: closeIt,
			out: a.once("line", func() []byte {
				return []byte("GET /ntrk/" + strings.Repeat("a", 64<<10) + " HTTP/1.1\r\nHost: t\r\n\r\n")
			})}
	}},
	{name: "pipelines", title: "pipelines of 10,000", conns: 64, on: both, script: func(a *attacker, n int) script {
		return script{dialing: dialing{from: a.address(n)}, replies: 10_000,
			out: a.once("pipeline", func() []byte { return repeat("GET /ntrk/pipe?port=1000&numwant=0 HTTP/1.1\r\nHost: t\r\n\r\n", 10_000) })}
	}},
	{name: "looks", title: "looks of 1,000, dictionaries", conns: 64, crowd: 1000, on: both, script: func(a *attacker, n int) script {
		return script{dialing: dialing{from: a.address(n)}, replies: 100,
			out: a.once("looks", func() []byte { return repeat(lookRequest(false), 100) })}
	}},
	{name: "streams", title: "10,000 streams, never read", conns: 10_000, on: both, script: func(a *attacker, n int) script {
		return script{dialing: dialing{from: a.address(n), unread: true}, out: streamRequest(attackedKey, 0), end: keepOpen}
	}},
	{name: "resets", title: "streams reset, 9,900 peers", conns: 64, crowd: 9900, on: both, script: func(a *attacker, n int) script {
		return script{dialing: dialing{from: a.address(n)}, out: streamRequest(attackedKey, 1000+a.index(n)%60_000), end: resetIt}
	}},
	{name: "tls", title: "TLS begun and left", conns: 64, tls: true, on: both, script: func(a *attacker, n int) script {
		return script{dialing: dialing{from: a.address(n)}, out: a.once("hello", clientHello), end: leaveAtOnce}
	}},
	{name: "idle", title: "idle, until no file is left", conns: allFiles, on: servers, script: func(a *attacker, n int) script {
		if a.Server == openServer { // it keeps no connection
			return script{dialing: dialing{from: a.address(n)}, end: keepOpen}
		}
		return script{dialing: dialing{from: a.address(n)}, end: keepAfterward,
			out: a.once("look", func() []byte { return []byte("GET /ntrk/idle?port=0 HTTP/1.1\r\nHost: t\r\n\r\n") })}
	}},
	{name: "connects", title: "connect and reset", conns: 64, on: servers, script: func(a *attacker, n int) script {
		return script{dialing: dialing{from: a.address(n)}, end: resetAtOnce}
	}},
}

const (
	noAttack  = "none"
	hogAttack = "hog"
	allFiles  = -1 // more connections than the server can have, of an attacker with its limit of files
)

func attackNamed(name string) *attack {
	if i := slices.IndexFunc(attacks, func(a attack) bool { return a.name == name }); i >= 0 {
		return &attacks[i]
	}
	return nil
}

func repeat(request string, n int) []byte { return []byte(strings.Repeat(request, n)) }

func slowRequest() []byte {
	return []byte("ET /ntrk/slow?port=0 HTTP/1.1\r\nHost: t\r\nX-Padding: " + strings.Repeat("x", 4000))
}

func lookRequest(compact bool) string {
	form := "compact=0&no_peer_id=1"
	if compact {
		form = "compact=1"
	}
	return "GET /ntrk/" + attackedKey + "?port=0&numwant=1000&" + form + " HTTP/1.1\r\nHost: t\r\n\r\n"
}

func streamRequest(key string, port int) []byte {
	return fmt.Appendf(nil, "GET /ntrk/%s?port=%d HTTP/1.1\r\nHost: t\r\nAccept: text/event-stream\r\n\r\n", key, port)
}
