// Keys as bytes, as paths and as text that is safe to show. Nothing here touches the document.

// keyBytes returns the bytes of a key in a path, which the browser has left as it was written.
export function keyBytes(path) {
	const bytes = []
	for (let i = 0; i < path.length; i++) {
		const hex = path[i] === "%" && /^[0-9a-f]{2}$/i.test(path.slice(i + 1, i + 3))
		bytes.push(hex ? parseInt(path.slice(i + 1, i + 3), 16) : path.charCodeAt(i))
		if (hex) i += 2
	}
	return Uint8Array.from(bytes)
}

// escapeKey writes a key as the tracker does. No byte of it means anything in a URL or in a shell.
export function escapeKey(bytes) {
	return Array.from(bytes, (b) => {
		const c = String.fromCharCode(b)
		return /[A-Za-z0-9._~-]/.test(c) ? c : "%" + b.toString(16).padStart(2, "0")
	}).join("")
}

// keyPath writes a key for a link. Its slashes stay what they are, because some proxies do not pass on
// their escapes: the page would then not find its parts. But browsers drop segments that are . or .., and
// some proxies those that are empty.
export function keyPath(bytes) {
	const escaped = escapeKey(bytes)
	const segments = escaped.split("%2f")
	return segments.some((segment) => ["", ".", ".."].includes(segment)) ? escaped : segments.join("/")
}

// visible shows what would otherwise be invisible, or change how other text looks, such as control
// characters and changes of direction. It shows them by their numbers.
export function visible(text) {
	return text.replace(/(?! )[\p{C}\p{Z}]/gu, (c) => "\\u{" + c.codePointAt(0).toString(16) + "}")
}

// showKey returns the key as text, and whether that is the key exactly.
export function showKey(bytes) {
	let text
	try {
		text = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(bytes)
	} catch {
		text = Array.from(bytes, (b) => (b < 128 ? visible(String.fromCharCode(b)) : "\\x" + b.toString(16))).join("")
		return { text, exact: false }
	}
	const shown = visible(text).replace(/^ +| +$/g, (spaces) => "\\u{20}".repeat(spaces.length))
	return { text: shown, exact: shown === text }
}

// checkKey returns what is wrong with a key that somebody has typed, or "".
export function checkKey(bytes) {
	const key = escapeKey(bytes)
	if (bytes.length === 0) return "The key is empty."
	if (bytes.length > 255) return `The key has ${bytes.length} bytes. It may have 255.`
	if (key === "." || key === "..") return "A browser cannot ask for the keys . and .. of a tracker. Other programs can."
	return ""
}

// readAddress finds the asker's address in a reply in bencode. It returns "" if there is none.
export function readAddress(bytes) {
	const name = "11:external ip"
	const text = Array.from(bytes.slice(0, 200), (b) => String.fromCharCode(b)).join("")
	const from = text.indexOf(name) + name.length
	if (from < name.length) return ""
	if (text.startsWith("4:", from)) return bytes.slice(from + 2, from + 6).join(".")
	if (!text.startsWith("16:", from)) return ""
	const groups = []
	for (let i = from + 3; i < from + 19; i += 2) groups.push(((bytes[i] << 8) | bytes[i + 1]).toString(16))
	return new URL(`http://[${groups.join(":")}]/`).hostname.slice(1, -1)
}

// duration writes a number of seconds.
export function duration(seconds) {
	if (seconds < 120 || seconds % 60) return seconds === 1 ? "1 second" : `${seconds} seconds`
	return `${seconds / 60} minutes`
}

// commands returns the ways to join a key, for the tracker at the URL root.
export function commands(root, bytes, token) {
	const key = escapeKey(bytes)
	const url = `${root.href}ntrk/${key}?port=4000`
	const shown = showKey(bytes)
	const quote = (s) => (/^[A-Za-z0-9_][A-Za-z0-9_.\/:@%-]*$/.test(s) ? s : `'${s.replaceAll("'", "'\\''")}'`)
	const tracker = root.protocol === "https:" ? root.origin : root.port ? root.host : root.host + ":80"
	const list = {
		curl: `curl -N ${token ? "-H 'Authorization: Bearer TOKEN' " : ""}-H 'Accept: text/event-stream' \\\n'${url}'`,
		python: token
			? `import urllib.request\nurl = "${url}&format=text"\nrequest = urllib.request.Request(url, headers={"Authorization": "Bearer TOKEN"})\nprint(urllib.request.urlopen(request).read().decode())`
			: `import urllib.request\nurl = "${url}&format=text"\nprint(urllib.request.urlopen(url).read().decode())`,
	}
	// A command needs the key as it is, and ntrack names a tracker by its host alone.
	if (shown.exact && root.pathname === "/") {
		const start = `ntrack announce --tracker ${quote(tracker)} \\\n--port 4000 --stay${token ? " --token-file FILE" : ""}`
		list.ntrack = `${start} ${shown.text.startsWith("-") || /^\d+$|:\d+$|^https?:/.test(shown.text) ? "-- " : ""}${quote(shown.text)}`
	}
	return list
}
