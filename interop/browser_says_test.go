//go:build linux

package interop_test

import (
	"strconv"
	"testing"
)

// says waits until an element of the page has this text, or contains it.
func (b *tab) says(t *testing.T, id, text string) {
	t.Helper()
	b.until(t, `const e = document.getElementById(arguments[0]); return e.checkVisibility() && e.innerText.includes(arguments[1])`, id, text)
}

// pageSays looks at everything that the page of a key says besides its peers.
func pageSays(t *testing.T, bin string, b *tab) {
	addr := serve(t, bin, "--index", "--interval", "10m", "--proxy", "127.0.0.1")
	announced(t, addr, "room", "2001:db8::1", "4001", "")
	for _, port := range []string{"4010", "4009", "10000"} {
		announced(t, addr, "room", "192.0.2.1", port, "")
	}
	announced(t, addr, "room", "10.0.0.1", "4001", "")
	b.visit(t, addr, "/ntrk/room")
	b.state(t, "live")
	b.says(t, "state", "Live")
	b.says(t, "count", "5")
	b.says(t, "interval", "10 minutes")
	b.says(t, "ttl", "25 minutes")
	b.says(t, "again", "every 10 minutes")
	b.says(t, "address", "127.0.0.1")
	b.says(t, "ntrack", "--tracker "+addr+" ")
	for _, id := range []string{"curl", "python"} {
		b.says(t, id, "http://"+addr+"/ntrk/room?port=4000")
	}
	b.until(t, `return document.title == "room \u2013 ntrack" && heading.innerText == "room" && key.value == "room"`)
	// The order is that of people: by number, and IPv4 first.
	b.until(t, `return (() => {`+endpointsShown+`})().join() == arguments[0]`, "10.0.0.1:4001,192.0.2.1:4009,192.0.2.1:4010,192.0.2.1:10000,[2001:db8::1]:4001")

	// A long list shows its beginning and says how long it is.
	for port := range 600 {
		announced(t, addr, "many", "192.0.2.1", strconv.Itoa(1000+port), "")
	}
	b.visit(t, addr, "/ntrk/many")
	b.says(t, "count", "600")
	b.says(t, "more", "and 100 more")
	b.until(t, `return document.querySelectorAll("#peers li").length == 500`)
	b.visit(t, addr, "/ntrk/nobody")
	b.says(t, "count", "0")
	b.says(t, "more", "Nobody is here now")

	// A key that the tracker would not get stays in the box.
	b.visit(t, addr, "/")
	b.run(t, nil, `document.querySelector("#key").focus()`)
	b.press(t, "..."+keyEnter)
	b.until(t, `return location.pathname == "/ntrk/..."`)
	b.state(t, "live")
	b.run(t, nil, `key.focus(); key.select()`)
	b.press(t, ".."+keyEnter)
	b.says(t, "key-error", "A browser cannot ask for")
	b.until(t, `return location.pathname == "/ntrk/..."`)
	b.staysAt(t, addr)
	b.quiet(t)
}
