// The list of peers: which are there, and what changed.

// A Roster has the peers of a track, as the tracker has reported them.
export class Roster {
	peers = new Map() // from an endpoint to the time at which its grace ends, or 0 if it is listed
	labels = new Map() // of peers, "" for one that has none
	epoch = undefined // of the last stream; undefined before the first one
	next = "" // the epoch of the stream whose list of peers is due
	ttl = 0 // seconds
	joined = []
	left = []

	// event takes over an event of a stream. A tracker that has restarted may have forgotten peers. So a
	// peer that is missing then has one ttl to come back.
	event(name, data, id) {
		if (name === "you") {
			this.next = id
			this.ttl = Math.max(this.ttl, Number(data[1]) || 0)
		} else if (name === "peers") {
			this.replace(data, this.epoch !== undefined && this.epoch !== this.next)
			this.epoch = this.next
		} else if (name === "join") {
			data.forEach((peer) => this.add(peer))
		} else if (name === "leave") {
			data.forEach((peer) => this.remove(peer))
		}
	}

	// replace takes over a whole list. With grace, peers that are missing stay for now.
	replace(list, grace) {
		const first = this.epoch === undefined && this.peers.size === 0
		const listed = new Set(list)
		for (const [peer, until] of this.peers) {
			if (listed.has(peer)) continue
			if (!grace) this.remove(peer)
			else if (until === 0) this.peers.set(peer, Date.now() + this.ttl * 1000)
		}
		listed.forEach((peer) => this.add(peer))
		if (first) this.joined = []
		this.forgetLabels()
	}

	// forgetLabels drops the labels of peers that are not there. A reply that is older than the list has
	// some, and another peer may come to the same endpoint.
	forgetLabels() {
		for (const peer of this.labels.keys()) if (!this.peers.has(peer)) this.labels.delete(peer)
	}

	add(peer) {
		if (!/^[0-9a-f.:\[\]]+:\d+$/.test(peer)) return
		if (!this.peers.has(peer)) this.joined.push(peer)
		this.peers.set(peer, 0)
	}

	remove(peer) {
		if (this.peers.delete(peer)) this.left.push(peer)
		this.labels.delete(peer)
	}

	// lapse removes the peers whose grace is over.
	lapse() {
		for (const [peer, until] of this.peers) if (until > 0 && until <= Date.now()) this.remove(peer)
	}

	// news returns what has changed since the last call, as a sentence.
	news() {
		const say = (list, did) => (list.length === 0 ? [] : [`${list.length > 3 ? `${list.length} peers` : list.join(", ")} ${did}.`])
		const text = [...say(this.joined, "joined"), ...say(this.left, "left")].join(" ")
		this.joined = []
		this.left = []
		return text
	}
}
