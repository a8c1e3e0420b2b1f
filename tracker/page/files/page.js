// The page of one key, or of the tracker if the address has none. Text from the network becomes text of
// the document and never markup.

import { checkKey, commands, duration, keyBytes, keyPath, readAddress, showKey, visible } from "./text.js"
import { follow, followByFetch, retryAfter, silence } from "./stream.js"
import { Roster } from "./peers.js"

const root = new URL("..", import.meta.url) // of the tracker, also if a proxy adds to the path
root.username = root.password = "" // fetch refuses an address with a password
const path = location.pathname.slice(root.pathname.length)
const key = path.startsWith("ntrk/") ? path.slice(5) : "" // as the browser has it: the key may be any bytes
const bytes = keyBytes(key)
const tokenName = "ntrack-token " + root.href

const most = 500 // rows of a list
const streamLimit = 10_000 // peers of a track that a tracker still streams
const $ = (id) => document.getElementById(id)
const wait = (ms) => new Promise((resolve) => setTimeout(resolve, ms))

let token = sessionStorage.getItem(tokenName) ?? ""
const headers = (accept) => ({ Accept: accept, ...(token && { Authorization: "Bearer " + token }) })
const urlOf = (query) => new URL(`ntrk/${key}?${query}`, root)

function show(id, shown) {
	$(id).hidden = !shown
}

// say shows the state, by a name for the style and in words: asking, live, sample, away, token or refused.
function say(state, text) {
	if ($("state").textContent !== text) $("state").textContent = text
	$("state").dataset.state = state
	show("state", text !== "")
}

// ask asks the tracker, and returns the status and what the reply says. Status 0 is no reply.
async function ask(query) {
	try {
		const reply = await fetch(urlOf(query), { headers: headers("application/json"), cache: "no-store", signal: AbortSignal.timeout(silence) })
		const body = await reply.json()
		return { status: reply.status, body, reason: visible(String(body.error ?? "")), retry: retryAfter(reply.headers) }
	} catch (e) {
		return { status: e instanceof SyntaxError ? 500 : 0, reason: "It sends no reply of a tracker.", retry: 0 }
	}
}

// askForToken waits until the user has given a token.
function askForToken(wrong) {
	say("token", "This tracker needs a token.")
	$("token-error").textContent = wrong ? "The tracker does not accept this token." : ""
	show("token-form", true)
	$("token").value = ""
	if (wrong) $("token").focus()
	return new Promise((resolve) => {
		$("token-form").onsubmit = (e) => {
			e.preventDefault()
			const given = $("token").value.trim()
			if (!/^[\x21-\x7e]+$/.test(given)) {
				$("token-error").textContent = "A token has letters, digits and signs, but no spaces."
				return
			}
			token = given
			show("token-form", false)
			say("asking", "Asking the tracker …")
			resolve()
		}
	})
}

// settle asks until the tracker has given an answer that counts. It returns undefined if that is a refusal
// which does not mend.
async function settle(query) {
	for (let delay = 1000; ; delay = Math.min(2 * delay, 15_000)) {
		const reply = await ask(query)
		if (reply.status === 200) {
			if (token) sessionStorage.setItem(tokenName, token)
			return reply
		}
		if (reply.status === 401) {
			const wrong = token !== ""
			token = ""
			sessionStorage.removeItem(tokenName)
			await askForToken(wrong)
			showJoin()
			delay = 500
			continue
		}
		if (reply.status !== 0 && reply.status < 500) {
			away(false)
			say("refused", `The tracker refuses: ${reply.reason}`)
			return undefined
		}
		away(true, reply.status !== 0 && `The tracker cannot answer now: ${reply.reason}`)
		await wait(Math.max(reply.retry * (1 + Math.random() / 5), delay * (0.5 + Math.random() / 2)))
	}
}

const roster = new Roster()
let asOf = "" // the time at which the list was last right
let labelled = true // whether the tracker sends labels
let sampleOf = 0 // the size of the track if the roster has only a sample of it

// away shows that the tracker does not answer, or does so again.
function away(is, text) {
	if (is && !$("peers").classList.contains("away")) asOf = new Date().toLocaleTimeString()
	$("peers").classList.toggle("away", is)
	if (!is) return
	const old = roster.peers.size > 0 ? ` The list is that of ${asOf}.` : ""
	say("away", `${text || "The tracker does not answer."}${old} Trying again …`)
}

// draw shows the roster.
let drawn = false
const rows = new Map()
const collator = new Intl.Collator("en", { numeric: true })
function draw() {
	drawn = false
	set($("count"), String(sampleOf || roster.peers.size))
	const shown = [...roster.peers.keys()].sort((a, b) => a.startsWith("[") - b.startsWith("[") || collator.compare(a, b)).slice(0, most)
	const wanted = new Set(shown)
	for (const [peer, row] of rows) {
		if (wanted.has(peer)) continue
		row.remove()
		rows.delete(peer)
	}
	let at = $("peers").firstChild
	for (const peer of shown) {
		let row = rows.get(peer)
		if (!row) {
			row = document.createElement("li")
			row.append(element("span", "endpoint", peer), element("bdi", "label", ""), element("span", "note", ""))
			rows.set(peer, row)
		}
		const gone = roster.peers.get(peer) > 0
		row.classList.toggle("away", gone)
		set(row.children[1], visible(roster.labels.get(peer) ?? ""))
		set(row.children[2], gone ? "not seen since the tracker was away" : "")
		if (row === at) at = at.nextSibling
		else $("peers").insertBefore(row, at)
	}
	const hidden = roster.peers.size - shown.length
	show("more", sampleOf > 0 || hidden > 0 || roster.peers.size === 0)
	if (sampleOf > 0) set($("more"), `A random sample of ${shown.length} is shown.`)
	else set($("more"), hidden > 0 ? `and ${hidden} more` : "Nobody is here now.")
}

function set(node, text) {
	if (node.textContent !== text) node.textContent = text
}

function element(name, className, text) {
	const e = document.createElement(name)
	e.className = className
	e.textContent = text
	return e
}

// changed draws soon, and once for changes that come together. To sort a long list takes a while.
function changed() {
	if (!drawn) setTimeout(draw, 50 + roster.peers.size / 10)
	drawn = true
}

// takeLabels asks for the labels of new peers, soon and once for all of them. It does not if there are so
// many that the reply is a sample.
let labelsDue = false
async function takeLabels() {
	if (labelsDue || !labelled || roster.peers.size > 1000) return
	if ([...roster.peers.keys()].every((peer) => roster.labels.has(peer))) return
	labelsDue = true
	await wait(1000)
	labelsDue = false
	const reply = await ask("port=0&numwant=1000&labels=1")
	if (reply.status !== 200) return
	recordLabels(reply.body)
	roster.forgetLabels()
}

function recordLabels(body) {
	labelled = Array.isArray(body.labels)
	if (!labelled) return
	body.peers.forEach((peer, i) => roster.labels.set(peer, String(body.labels[i] ?? "")))
	changed()
}

const on = {
	event(name, data, id) {
		roster.event(name, data, id)
		if (name === "you") set($("ttl"), duration(Number(data[1])))
		if (name === "peers") {
			sampleOf = 0
			away(false)
			show("track", true)
			say("live", "Live: changes show at once.")
			draw()
		}
		if (name === "join" || name === "peers") takeLabels()
		changed()
	},
	away: () => away(true),
}

// watch follows the track as long as the page is open.
async function watch() {
	setTimeout(() => {
		if ($("state").dataset.state === "asking") say("asking", "The tracker has not answered yet. If it is open in more than five tabs of this browser, close some.")
	}, 10_000)
	say("asking", "Asking the tracker …")
	let streams = true // EventSource has not failed
	for (;;) {
		const reply = await settle("port=0&numwant=1000&labels=1")
		if (!reply) return
		const { interval, ttl, count, peers } = reply.body
		set($("interval"), duration(interval))
		set($("ttl"), duration(ttl))
		set($("again"), `every ${duration(interval)}`)
		recordLabels(reply.body)
		showAddress()
		if (count <= streamLimit) {
			if (!token && streams) {
				streams = await follow(urlOf("port=0"), on, async () => {
					const now = await ask("port=0&numwant=0")
					if (now.status === 200) set($("interval"), duration(now.body.interval))
					return now.status !== 0
				})
				continue
			}
			streams = true
			const ended = await followByFetch(urlOf("port=0"), headers(), on)
			if (!ended || ended.ok || ended.status !== 503 || ended.headers.has("Retry-After")) {
				away(true)
				await wait(Math.max(retryAfter(ended?.headers), 1500 * (0.5 + Math.random() / 2)))
				continue
			}
		}
		// The track is too large to stream.
		roster.replace(peers, false)
		roster.news()
		away(false)
		show("track", true)
		sampleOf = count
		draw()
		say("sample", `This track is too large to show changes at once. The page asks again every ${duration(interval)}.`)
		await wait(interval * 1000)
	}
}

// showAddress asks once for the address at which the tracker sees this browser.
async function showAddress() {
	if ($("address").textContent) return
	try {
		const reply = await fetch(urlOf("port=0&numwant=0&compact=1&format=bencode"), { headers: headers("*/*"), cache: "no-store" })
		$("address").textContent = readAddress(new Uint8Array(await reply.arrayBuffer()))
	} catch {
		// The loop in watch says what is wrong.
	}
}

// showIndex shows the keys of the tracker if it has an index. The index may be large, so it reads only
// the beginning.
async function showIndex() {
	const abort = new AbortController()
	let reply
	for (;;) {
		try {
			reply = await fetch(new URL("ntrk/", root), { headers: headers("text/plain"), cache: "no-store", signal: abort.signal })
		} catch {
			say("away", "The tracker does not answer. Reload the page to try again.")
			return
		}
		if (reply.status !== 401) break
		const wrong = token !== ""
		token = ""
		sessionStorage.removeItem(tokenName)
		await askForToken(wrong)
		showJoin()
	}
	say("", "")
	if (token) sessionStorage.setItem(tokenName, token)
	if (!reply.ok) return
	const reader = reply.body.pipeThrough(new TextDecoderStream()).getReader()
	let text = ""
	for (let part = await reader.read(); !part.done; part = await reader.read()) {
		text += part.value
		if (text.length > most * 800) break // a line has at most 800 characters
	}
	const lines = text.split("\n").slice(0, -1)
	for (const line of lines.slice(0, most)) {
		const [escaped, count] = line.split(" ")
		const key = keyBytes(escaped)
		const link = element(checkKey(key) ? "span" : "a", "", "")
		if (link.tagName === "A") link.href = new URL("ntrk/" + keyPath(key), root)
		link.append(element("bdi", "", showKey(key).text))
		const row = document.createElement("li")
		row.append(link, element("span", "note", count === "1" ? "1 peer" : `${count} peers`))
		$("keys").append(row)
	}
	set($("more-keys"), lines.length === 0 ? "No key has a peer now." : `These are the first ${most} keys. Enter a key to see another one.`)
	show("more-keys", lines.length === 0 || lines.length > most)
	show("index", true)
	abort.abort()
}

function showJoin() {
	const list = commands(root, key ? bytes : new TextEncoder().encode("lobby"), token !== "")
	for (const name of ["ntrack", "curl", "python"]) set($(name), list[name] ?? "")
	show("by-ntrack", list.ntrack !== undefined)
	show("join", true)
}

$("home").href = root
$("search").onsubmit = (e) => {
	e.preventDefault()
	const wanted = new TextEncoder().encode($("key").value)
	$("key-error").textContent = checkKey(wanted)
	if (!checkKey(wanted)) location.assign(new URL("ntrk/" + keyPath(wanted), root))
}
showJoin()
if (key) {
	const shown = showKey(bytes)
	document.title = `${shown.text} – ntrack`
	const name = element("bdi", "", shown.text)
	$("heading").replaceChildren(name)
	show("about", false)
	if (shown.exact) $("key").value = shown.text
	setInterval(() => {
		roster.lapse()
		const news = roster.news()
		if (news) {
			set($("news"), news)
			changed()
		}
	}, 1000)
	watch()
} else {
	$("key").focus()
	showIndex()
}
