//go:build linux

package interop_test

import (
	"cmp"
	"fmt"
	"os"
	"strings"
	"testing"
)

// pageKeyboard reaches everything without a mouse.
func pageKeyboard(t *testing.T, bin string, b *tab) {
	addr := serve(t, bin, "--index")
	ask(t, "GET", addr, "?port=4001", "")
	b.visit(t, addr, "/")
	b.until(t, `return document.querySelectorAll("#keys a").length == 1`)
	b.run(t, nil, `document.activeElement.blur(); getSelection().removeAllRanges()`)
	b.tabs(t)
	b.run(t, nil, `document.querySelector("#key").focus()`)
	b.press(t, "room"+keyEnter)
	b.until(t, `return location.pathname == "/ntrk/room"`)
	b.shows(t, "127.0.0.1:4001")
	b.tabs(t)
	b.quiet(t)
}

// tabs presses Tab until the focus has been everywhere. Where it is has to be seen.
func (b *tab) tabs(t *testing.T) {
	t.Helper()
	var count int
	b.run(t, &count, `
		window.missed = new Set([...document.querySelectorAll("a[href], button, input, select, summary, [tabindex], textarea")]
			.filter(e => e.checkVisibility({visibilityProperty: true}) && !e.disabled));
		document.activeElement.blur();
		for (const e of missed) e.restful = getComputedStyle(e).outline + getComputedStyle(e).boxShadow + getComputedStyle(e).borderColor;
		return missed.size`)
	for range count + 1 {
		b.press(t, keyTab)
		var dim string
		b.run(t, &dim, `
			const e = document.activeElement;
			if (!missed.delete(e)) return "";
			const now = getComputedStyle(e);
			return e.restful == now.outline + now.boxShadow + now.borderColor ? e.outerHTML : ""`)
		if dim != "" {
			t.Errorf("nothing shows that the focus is on %s", dim)
		}
	}
	var missed []string
	if b.run(t, &missed, `return [...missed].map(e => e.outerHTML)`); len(missed) > 0 || count == 0 {
		t.Errorf("Tab reaches %d elements, but not %q", count, missed)
	}
}

// axe returns the file of axe-core, which finds what people with impairments cannot use.
func axe() string { return cmp.Or(os.Getenv("NTRACK_AXE"), "/where NTRACK_AXE points") }

// pageAccessible has axe-core look at the page in each of its states, in both themes and on a phone. On a
// phone, nothing may be wider than the screen.
func pageAccessible(t *testing.T, bin string, b *tab) {
	source, err := os.ReadFile(axe())
	must(t, err)
	addr, kill := serveAt(t, bin, "127.0.0.1:0", "--index", "--interval", "10m", "--proxy", "127.0.0.1", "--deny", write(t, "deny", "key denied\n"))
	token := serve(t, bin, "--token-file", write(t, "token", "TOKEN"))
	for _, key := range append(hostile, "room") {
		announced(t, addr, key, "", "4001", "dm6 3/8 eu")
		announced(t, addr, key, "2001:db8:1111:2222:3333:4444:5555:6666", "65535", strings.Repeat("w", 20))
	}
	check := func(state string) {
		t.Helper()
		for _, screen := range []struct {
			width, height int
			scheme        string
		}{{1280, 800, "light"}, {360, 740, "dark"}, {320, 640, "light"}} {
			b.screen(t, screen.width, screen.height, screen.scheme)
			name := fmt.Sprintf("%s, %s, %d pixels wide", state, screen.scheme, screen.width)
			var found []string
			b.run(t, &found, `
				if (document.documentElement.scrollWidth <= innerWidth) return [];
				return [...document.querySelectorAll("body *")].filter(e => e.getBoundingClientRect().right > innerWidth).map(e => e.outerHTML.slice(0, 200))`)
			if len(found) > 0 {
				t.Errorf("%s: wider than the screen: %q", name, found)
			}
			if screen.width == 320 {
				break
			}
			b.run(t, &found, `
				if (!window.axe) (0, eval)(arguments[0]);
				return axe.run(document).then(r => r.violations.map(v =>
					v.impact + " " + v.id + ": " + v.nodes.map(n => n.html + " " + n.failureSummary).join("; ")))`, string(source))
			for _, violation := range found {
				t.Errorf("%s: %s", name, violation)
			}
		}
	}
	b.visit(t, addr, "/")
	b.until(t, `return document.querySelectorAll("#keys a").length == arguments[0]`, len(hostile)+1)
	check("home")
	for name, key := range map[string]string{"peers": "room", "long key": strings.Repeat("k", 255), "key of bytes": strings.Repeat("\xff", 255)} {
		b.visit(t, addr, "/ntrk/"+escaped(key))
		b.state(t, "live")
		b.labelled(t, "dm6 3/8 eu", strings.Repeat("w", 20))
		check(name)
	}
	b.visit(t, addr, "/ntrk/nobody")
	b.state(t, "live")
	check("nobody")
	b.visit(t, addr, "/ntrk/denied")
	b.state(t, "refused")
	check("denied")
	b.visit(t, token, "/ntrk/room")
	b.state(t, "token")
	check("token")
	b.run(t, nil, `document.querySelector("#token").focus()`)
	b.press(t, "WRONG"+keyEnter)
	b.until(t, `return document.querySelector("#token-error").textContent != ""`)
	check("wrong token")
	b.visit(t, addr, "/ntrk/room")
	b.state(t, "live")
	kill()
	b.state(t, "away")
	check("away")
}
