// Tests of the scripts of the page that need no browser. The argument is their directory. With a URL and
// escaped keys after it, this prints the ways to join these keys instead.

import assert from "node:assert/strict"
const load = (name) => import(`${process.argv[2]}/${name}`)
const { checkKey, commands, duration, escapeKey, keyBytes, keyPath, readAddress, showKey, visible } = await load("text.js")
const { parser, retryAfter } = await load("stream.js")
const { Roster } = await load("peers.js")

const [, , , root, ...keys] = process.argv
if (root) {
	console.log(JSON.stringify(keys.map((key) => commands(new URL(root), keyBytes(key), false))))
	process.exit()
}

// A key may be any bytes, in any way that a browser writes them.
const all = Uint8Array.from({ length: 256 }, (_, i) => i)
assert.deepEqual(keyBytes(escapeKey(all)), all)
assert.equal(escapeKey(keyBytes("a/b%2Fc%zz%4'+")), "a%2fb%2fc%25zz%254%27%2b")
assert.match(escapeKey(all), /^([A-Za-z0-9._~-]|%[0-9a-f]{2})+$/)

// In a link a slash stays one, unless a browser or a proxy would change the key.
for (const [key, path] of [["a/b%20c", "a/b%20c"], ["a%2fb", "a/b"], ["http://x/", "http%3a%2f%2fx%2f"], ["/a", "%2fa"], ["a/", "a%2f"], ["a/../b", "a%2f..%2fb"], ["./a", ".%2fa"], ["a/.b", "a/.b"], ["a%252fb", "a%252fb"]]) {
	assert.equal(keyPath(keyBytes(key)), path)
	assert.deepEqual(keyBytes(keyPath(keyBytes(key))), keyBytes(key))
}

// What is shown has no character that is invisible or changes others.
for (let c = 0; c < 0x11_0000; c++) {
	const shown = visible(String.fromCodePoint(c))
	assert.ok(/^[^\p{C}\p{Zl}\p{Zp}]+$/u.test(shown) && (c === 32 || !/\p{Z}/u.test(shown)), `U+${c.toString(16)}: ${shown}`)
}
assert.equal(visible("a\u202eb\n☕ é"), "a\\u{202e}b\\u{a}☕ é")
assert.deepEqual(showKey(keyBytes("chat/room%201")), { text: "chat/room 1", exact: true })
assert.deepEqual(showKey(keyBytes("%20a%20%20")), { text: "\\u{20}a\\u{20}\\u{20}", exact: false })
assert.deepEqual(showKey(keyBytes("a%ff%0a")), { text: "a\\xff\\u{a}", exact: false })
// Without its first character this would be another key.
assert.deepEqual(showKey(keyBytes("%ef%bb%bfa")), { text: "\\u{feff}a", exact: false })
assert.equal(checkKey(new Uint8Array(255).fill(97)), "")
for (const bad of ["", ".", "..", "k".repeat(256)]) assert.notEqual(checkKey(new TextEncoder().encode(bad)), "", bad)
assert.deepEqual([1, 15, 60, 119, 120, 150, 3600].map(duration), ["1 second", "15 seconds", "60 seconds", "119 seconds", "2 minutes", "150 seconds", "60 minutes"])

// A tracker is named so that ntrack finds it, or not at all. With a token, each way to join gives it.
const join = (root, token) => commands(new URL(root), keyBytes("k"), token)
for (const [root, tracker] of [["http://t.example/", "t.example:80"], ["http://t.example:6969/", "t.example:6969"], ["https://t.example/", "https://t.example"], ["https://t.example:8443/", "https://t.example:8443"]]) {
	assert.ok(join(root, false).ntrack.includes(` --tracker ${tracker} `), root)
}
assert.equal(join("http://t.example/peers/", false).ntrack, undefined)
assert.ok(join("http://t.example/peers/", false).curl.includes("'http://t.example/peers/ntrk/k?"))
for (const token of [false, true]) {
	const ways = join("http://t.example/", token)
	assert.deepEqual([/ --token-file FILE /.test(ways.ntrack), /Bearer TOKEN/.test(ways.curl), /Bearer TOKEN/.test(ways.python)], [token, token, token])
}

// The address of the asker, in both families and in replies without one.
const latin1 = (s) => Uint8Array.from(s, (c) => c.charCodeAt(0))
assert.equal(readAddress(latin1("d8:completei0e11:external ip4:\xc0\x00\x02\x0110:incompletei0ee")), "192.0.2.1")
assert.equal(readAddress(latin1("d11:external ip16:\x20\x01\x0d\xb8" + "\0".repeat(11) + "\x04e")), "2001:db8::4")
assert.equal(readAddress(latin1("d14:failure reason1:xe")), "")

// A page waits for as long as a tracker asks, but an hour at most. A longer timer might end at once.
for (const [value, seconds] of [[undefined, 0], ["0", 0], ["5", 5], ["3600", 3600], ["3601", 3600], ["99999999", 3600], ["1e999", 3600], ["-1", 0], ["x", 0]]) {
	assert.equal(retryAfter(new Headers(value && { "Retry-After": value })), seconds * 1000, value)
}
assert.equal(retryAfter(undefined), 0)

// A stream means the same wherever its bytes are split.
const stream = "event: you\nid: e1\nretry: 1500\ndata: \ndata: 150\n\n:\n\nevent: peers\ndata: 192.0.2.1:1\ndata: [2001:db8::4]:4\n\nevent: leave\ndata: 192.0.2.1:1\n\nevent: peers\ndata: \n\nretry: 10\n"
const read = (...parts) => {
	const events = []
	const parse = parser((...event) => events.push(event))
	parts.forEach(parse)
	return events
}
const whole = read(stream)
assert.deepEqual(whole, [["you", ["", "150"], "e1"], ["peers", ["192.0.2.1:1", "[2001:db8::4]:4"], "e1"], ["leave", ["192.0.2.1:1"], "e1"], ["peers", [""], "e1"]])
for (let i = 0; i <= stream.length; i++) assert.deepEqual(read(stream.slice(0, i), stream.slice(i)), whole)
assert.deepEqual(read(...stream), whole)

// Peers that are missing after a restart have one ttl to come back. Under the same epoch they are gone.
const roster = new Roster()
const connect = (epoch, ...peers) => {
	roster.event("you", ["", "150"], epoch)
	roster.event("peers", peers, epoch)
}
const has = (...peers) => assert.deepEqual([...roster.peers.keys()], peers)
connect("e1", "192.0.2.1:1", "192.0.2.2:2", "192.0.2.3:3")
assert.equal(roster.news(), "") // these were there before
roster.event("join", ["192.0.2.4:4"])
roster.event("join", ["<img src=x>", "", "192.0.2.4:4"])
assert.equal(roster.news(), "192.0.2.4:4 joined.")
connect("e1", "192.0.2.1:1", "192.0.2.2:2", "192.0.2.3:3")
assert.equal(roster.news(), "192.0.2.4:4 left.")
const now = Date.now
connect("e2", "192.0.2.2:2")
has("192.0.2.1:1", "192.0.2.2:2", "192.0.2.3:3")
assert.ok(roster.peers.get("192.0.2.1:1") > now() + 140_000 && roster.peers.get("192.0.2.2:2") === 0)
roster.event("join", ["192.0.2.3:3"])
roster.lapse()
has("192.0.2.1:1", "192.0.2.2:2", "192.0.2.3:3")
Date.now = () => now() + 151_000
roster.lapse()
has("192.0.2.2:2", "192.0.2.3:3")
assert.equal(roster.news(), "192.0.2.1:1 left.")
connect("e3", "")
roster.event("leave", ["192.0.2.2:2"])
has("192.0.2.3:3")
roster.event("join", ["192.0.2.5:5", "192.0.2.6:6", "192.0.2.7:7", "192.0.2.8:8"])
assert.equal(roster.news(), "4 peers joined. 192.0.2.2:2 left.")
Date.now = now

// The list that was there before the first stream is replaced by that of the stream.
const fresh = new Roster()
fresh.replace(["192.0.2.1:1"], false)
fresh.event("you", ["", "150"], "e1")
fresh.event("peers", ["192.0.2.2:2", "192.0.2.3:3"], "e1")
assert.deepEqual([...fresh.peers.keys()], ["192.0.2.2:2", "192.0.2.3:3"])
// A tracker that restarts again gives no peer more time, and a shorter ttl gives none less.
for (const [epoch, ttl, later] of [["e2", "2", 0], ["e3", "150", 100_000], ["e4", "150", 151_000]]) {
	Date.now = () => now() + later
	fresh.event("you", ["", ttl], epoch)
	fresh.event("peers", ["192.0.2.2:2"], epoch)
	const until = fresh.peers.get("192.0.2.3:3")
	assert.ok(until > now() + 140_000 && until < now() + 160_000, epoch)
}
fresh.lapse()
assert.deepEqual([...fresh.peers.keys()], ["192.0.2.2:2"])
// Who takes the endpoint of a peer that has left does not get its label.
fresh.labels.set("192.0.2.2:2", "worker")
fresh.event("leave", ["192.0.2.2:2"])
fresh.event("join", ["192.0.2.2:2"])
assert.equal(fresh.labels.get("192.0.2.2:2"), undefined)
// Nor does who comes to an endpoint that has left while the labels were on their way.
fresh.labels.set("192.0.2.7:7", "worker")
fresh.labels.set("192.0.2.2:2", "other")
fresh.forgetLabels()
assert.deepEqual([...fresh.labels], [["192.0.2.2:2", "other"]])
fresh.labels.set("192.0.2.7:7", "worker")
fresh.event("peers", ["192.0.2.2:2"], "e4")
assert.deepEqual([...fresh.labels], [["192.0.2.2:2", "other"]])
console.log("ok")
