// Event streams of a tracker. There are two ways to follow one. A browser's EventSource does not send a
// token and hides why the tracker refused. So fetch is used where there is a token or a refusal.

export const silence = 35_000 // milliseconds without a byte after which a tracker does not answer

// retryAfter returns for how many milliseconds a reply asks to wait, at most an hour. A timer that is set
// to more than 25 days would end at once.
export function retryAfter(headers) {
	return Math.min(Math.max(Number(headers?.get("Retry-After")) || 0, 0), 3600) * 1000
}

// follow follows a stream by EventSource until the browser has given up. It returns whether the next one
// may be an EventSource, too. on.event gets each event, and on.away is called when the browser tries to
// connect again. check is called now and then, and returns whether the tracker still answers: an
// EventSource does not notice by itself that it does not. A stream by fetch does, and needs no check,
// which would have no connection left if there are too many tabs.
export async function follow(url, on, check) {
	let began = false
	const source = new EventSource(url)
	const ended = new Promise((resolve) => {
		source.onerror = () => (source.readyState === EventSource.CLOSED ? resolve() : on.away())
		const timer = setInterval(async () => {
			if (source.readyState !== EventSource.CLOSED) {
				if (await check()) return
				began = false
				on.away()
			}
			clearInterval(timer)
			resolve()
		}, 20_000)
	})
	for (const name of ["you", "peers", "join", "leave"]) {
		source.addEventListener(name, (e) => {
			began = true
			on.event(name, e.data.split("\n"), e.lastEventId)
		})
	}
	await ended
	source.close()
	return began
}

// followByFetch follows a stream by fetch until it ends. It returns the reply without its body, or
// undefined if the tracker cannot be reached.
export async function followByFetch(url, headers, on) {
	const abort = new AbortController()
	let timer
	const more = () => {
		clearTimeout(timer)
		timer = setTimeout(() => abort.abort(), silence)
	}
	more()
	let reply
	try {
		reply = await fetch(url, { headers: { ...headers, Accept: "text/event-stream" }, cache: "no-store", signal: abort.signal })
		if (reply.ok && (reply.headers.get("Content-Type") ?? "").startsWith("text/event-stream")) {
			const reader = reply.body.pipeThrough(new TextDecoderStream()).getReader()
			const parse = parser(on.event)
			for (let part = await reader.read(); !part.done; part = await reader.read()) {
				more()
				parse(part.value)
			}
		}
	} catch {
		return reply
	} finally {
		clearTimeout(timer)
		abort.abort()
	}
	return reply
}

// parser returns a function that gets the parts of a stream, and calls event for each event in them. A
// tracker ends each line by a line feed.
export function parser(event) {
	let rest = "", name = "", id = "", data = []
	return (part) => {
		const lines = (rest + part).split("\n")
		rest = lines.pop()
		for (const line of lines) {
			const [, field, value] = /^([^:]*)(?:: ?(.*))?$/.exec(line) ?? []
			if (field === "event") name = value ?? ""
			else if (field === "id") id = value ?? ""
			else if (field === "data") data.push(value ?? "")
			else if (line === "") {
				if (data.length > 0) event(name, data, id)
				name = ""
				data = []
			}
		}
	}
}
