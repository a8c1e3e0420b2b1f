//go:build linux

package interop_test

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
)

// The page for people runs here in Chromium, as a visitor sees it.

// endpointsShown returns the peers on the page, in its order.
const endpointsShown = `return [...document.querySelectorAll("#peers .endpoint")].map(e => e.textContent)`

// peoplePage visits the page in all its states, one after the other in one browser.
func peoplePage(t *testing.T, bin string) {
	b := openTab(t)
	for _, tt := range []struct {
		name string
		run  func(*testing.T, string, *tab)
	}{
		{"peers come and go", pageLive},
		{"what it says", pageSays},
		{"the tracker restarts", pageRestart},
		{"the tracker is silent", pageSilent},
		{"a token", pageToken},
		{"hostile text", pageHostile},
		{"the index", pageIndex},
		{"a track without a stream", pageTooLarge},
		{"a proxy", pageBehindProxy},
		{"another site", pageFramed},
		{"no scripts", pageWithoutScripts},
		{"no mouse", pageKeyboard},
		{"axe-core", pageAccessible},
		{"pictures", pagePictures},
	} {
		t.Run(tt.name, func(t *testing.T) {
			b.open(t, "about:blank")
			b.screen(t, 1280, 800, "light")
			b.requests(t) // of the test before
			b.log(t, "browser")
			tt.run(t, bin, b)
		})
	}
}

func (b *tab) visit(t *testing.T, addr, path string) {
	t.Helper()
	b.open(t, "http://"+addr+path)
}

// shows waits until the page shows these peers, and no others.
func (b *tab) shows(t *testing.T, peers ...string) {
	t.Helper()
	b.until(t, `return arguments[0] == (() => {`+endpointsShown+`})().sort()`, strings.Join(slices.Sorted(slices.Values(peers)), ","))
}

// labelled waits until the page shows these labels, one for each peer.
func (b *tab) labelled(t *testing.T, labels ...string) {
	t.Helper()
	b.until(t, `return arguments[0] == [...document.querySelectorAll("#peers .label")].map(e => e.textContent).sort().join()`, strings.Join(slices.Sorted(slices.Values(labels)), ","))
}

// state waits until the page is in a state.
func (b *tab) state(t *testing.T, want string) {
	t.Helper()
	b.until(t, `return document.querySelector("#state").dataset.state == arguments[0]`, want)
}

// quiet fails the test if the console has an error: of a script, or a violation of the content security
// policy. Failed requests are errors, too, but for those that may fail.
func (b *tab) quiet(t *testing.T, mayFail ...string) {
	t.Helper()
	for _, entry := range b.log(t, "browser") {
		address, _, _ := strings.Cut(entry.Message, " ")
		if entry.Source != "network" || !slices.ContainsFunc(mayFail, func(part string) bool { return strings.Contains(address, part) }) {
			t.Errorf("console: %s: %s", entry.Source, entry.Message)
		}
	}
}

// announced puts a peer under a key, of any bytes, with a label of at most 20 bytes. A tracker with
// --proxy believes its host; without one it is that of this connection.
func announced(t *testing.T, addr, key, host, port, label string) {
	t.Helper()
	query := "?port=" + port + "&peer_id=" + escaped(label+strings.Repeat("\x00", 20-len(label)))
	request, err := http.NewRequestWithContext(t.Context(), "GET", "http://"+addr+"/ntrk/"+escaped(key)+query, nil)
	must(t, err)
	if host != "" {
		request.Header.Set("X-Forwarded-For", host)
	}
	reply, err := http.DefaultClient.Do(request)
	must(t, err)
	defer reply.Body.Close()
	if text, err := io.ReadAll(reply.Body); err != nil || reply.StatusCode != http.StatusOK {
		t.Fatalf("%q: %s %v\n%s", key, reply.Status, err, text)
	}
}

// escaped writes every byte of a key as an escape, which is allowed.
func escaped(key string) string {
	var b strings.Builder
	for _, c := range []byte(key) {
		fmt.Fprintf(&b, "%%%02x", c)
	}
	return b.String()
}

func pageLive(t *testing.T, bin string, b *tab) {
	addr := serve(t, bin, "--index")
	b.visit(t, addr, "/ntrk/room")
	b.state(t, "live")
	b.shows(t)
	ask(t, "GET", addr, "?port=4001", "")
	b.shows(t, "127.0.0.1:4001")
	ask(t, "GET", addr, "?port=4002", "")
	b.shows(t, "127.0.0.1:4001", "127.0.0.1:4002")
	ask(t, "DELETE", addr, "?port=4001", "")
	b.shows(t, "127.0.0.1:4002")
	b.until(t, `return document.querySelector("#news").textContent.includes("127.0.0.1:4001")`)
	b.staysAt(t, addr)
	b.quiet(t)

	// Looking has listed nobody, and has made no track.
	listed(t, addr, "", "127.0.0.1:4002")
	b.visit(t, addr, "/ntrk/another")
	b.state(t, "live")
	reply, err := http.Get("http://" + addr + "/ntrk/?format=text")
	must(t, err)
	defer reply.Body.Close()
	if text, err := io.ReadAll(reply.Body); err != nil || string(text) != "room 1\n" {
		t.Errorf("the index is %q, %v", text, err)
	}
}

// present holds a peer under the key room by an event stream until the test ends.
func present(t *testing.T, addr, port string) {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), "GET", "http://"+addr+"/ntrk/room?port="+port, nil)
	must(t, err)
	request.Header.Set("Accept", "text/event-stream")
	reply, err := http.DefaultClient.Do(request)
	must(t, err)
	t.Cleanup(func() { _ = reply.Body.Close() })
}

func pageRestart(t *testing.T, bin string, b *tab) {
	addr, kill := serveAt(t, bin, "127.0.0.1:0", "--interval", "1s")
	present(t, addr, "4001")
	present(t, addr, "4002")
	b.visit(t, addr, "/ntrk/room")
	b.shows(t, "127.0.0.1:4001", "127.0.0.1:4002")
	kill()
	b.state(t, "away")
	b.shows(t, "127.0.0.1:4001", "127.0.0.1:4002")
	again, _ := serveAt(t, bin, addr, "--interval", "1s")
	present(t, again, "4002")
	present(t, again, "4003")
	b.state(t, "live")
	b.shows(t, "127.0.0.1:4001", "127.0.0.1:4002", "127.0.0.1:4003") // 4001 has one ttl to come back
	b.shows(t, "127.0.0.1:4002", "127.0.0.1:4003")
	b.staysAt(t, addr)
	b.quiet(t, addr)
}

// A tracker that is still connected but does not answer is away, too. When it answers again, the page is
// live again. For this test the clock of the page runs fast.
func pageSilent(t *testing.T, bin string, b *tab) {
	addr, p := serveProgram(t, bin, "127.0.0.1:0")
	present(t, addr, "4001")
	var script struct{ Identifier string }
	b.call(t, "POST", "/goog/cdp/execute", map[string]any{"cmd": "Page.addScriptToEvaluateOnNewDocument", "params": map[string]any{"source": `
		const often = setInterval, limit = AbortSignal.timeout.bind(AbortSignal)
		window.setInterval = (f, ms) => often(f, ms / 20)
		AbortSignal.timeout = (ms) => limit(ms / 20)`}}, &script)
	defer b.devtools(t, "Page.removeScriptToEvaluateOnNewDocument", map[string]any{"identifier": script.Identifier})
	b.visit(t, addr, "/ntrk/room")
	b.state(t, "live")
	b.shows(t, "127.0.0.1:4001")
	must(t, p.cmd.Process.Signal(syscall.SIGSTOP))
	defer func() { _ = p.cmd.Process.Signal(syscall.SIGCONT) }()
	b.state(t, "away")
	b.shows(t, "127.0.0.1:4001")
	must(t, p.cmd.Process.Signal(syscall.SIGCONT))
	b.state(t, "live")
	present(t, addr, "4002")
	b.shows(t, "127.0.0.1:4001", "127.0.0.1:4002")
	b.staysAt(t, addr)
	b.quiet(t, addr)
}

func pageToken(t *testing.T, bin string, b *tab) {
	addr := serve(t, bin, "--token-file", write(t, "token", "TOKEN"))
	ask(t, "GET", addr, "?port=4001", "Bearer TOKEN")
	b.visit(t, addr, "/ntrk/room")
	for _, token := range []string{"WRONG", "TOKEN"} {
		b.state(t, "token")
		b.run(t, nil, `document.querySelector("#token").focus()`)
		b.press(t, token+keyEnter)
	}
	b.state(t, "live")
	b.shows(t, "127.0.0.1:4001")
	ask(t, "GET", addr, "?port=4002", "Bearer TOKEN")
	b.shows(t, "127.0.0.1:4001", "127.0.0.1:4002")
	var address string
	b.run(t, &address, `return location.href`)
	if strings.Contains(address, "TOKEN") {
		t.Errorf("the token is in %s", address)
	}
	b.staysAt(t, addr)
	b.quiet(t, "/ntrk/room?port=0")
	listed(t, addr, "Bearer TOKEN", "127.0.0.1:4001", "127.0.0.1:4002")

	b.another(t) // which has not got the token
	b.visit(t, addr, "/ntrk/room")
	b.state(t, "token")
	b.shows(t)
}

// hostile are keys that a page could take for something else than text.
var hostile = []string{
	`<script>document.title="hacked"</script>`,
	`<img src=x onerror='document.title="hacked"'>`,
	`"><b id=peers>`, `' onclick=alert(1) '`, `</title><b>`, `{{7*7}}`, `&lt;b&gt;`,
	`javascript:document.title="hacked"//`, `//evil.example/x`, `https://evil.example/`,
	"\x1b[31mred\x1b[0m", "\u202egnp.exe", "\u2066\u2067isolates", "a\nb\r\nc", "\x00", " ", "\u00a0", "\u200b",
	"\xff\xfe\x80", "\xc3", "%", "%2f", "%zz", "a/b//c", "../x", "?a=b#c", "+", `\`, `..\x`, "ü", "日本", "\U0001f600",
	strings.Repeat("k", 255), strings.Repeat("\xe2\x80\x8f", 85), strings.Repeat("\xff", 255),
}

func pageHostile(t *testing.T, bin string, b *tab) {
	addr := serve(t, bin, "--index", "--interval", "10m")
	const label = "<img src=x onerror=>"
	for _, key := range hostile {
		announced(t, addr, key, "", "4001", label)
	}
	b.visit(t, addr, "/ntrk/room")
	b.state(t, "live")
	const elements = `return [...new Set([...document.querySelectorAll("*")].map(e => e.localName + e.id))].sort().join()`
	announced(t, addr, "room", "", "4001", "worker 1 of 3")
	b.shows(t, "127.0.0.1:4001")
	b.labelled(t, "worker 1 of 3")
	var harmless string
	b.run(t, &harmless, elements)
	for _, key := range hostile {
		b.visit(t, addr, "/ntrk/"+escaped(key))
		b.shows(t, "127.0.0.1:4001")
		b.plain(t, key)
		var now string
		if b.run(t, &now, elements); now != harmless {
			t.Errorf("%q: the page has the elements\n%s\nwith a harmless key\n%s", key, now, harmless)
		}
	}

	b.labelled(t, label)
	b.plain(t, label)

	// A link of the index leads to each of them.
	b.visit(t, addr, "/ntrk/")
	b.until(t, `return document.querySelectorAll("#keys a").length == arguments[0]`, len(hostile)+1)
	b.plain(t, "the index")
	var links []string
	b.run(t, &links, `return [...document.querySelectorAll("#keys a")].map(a => a.href)`)
	for _, link := range links {
		u, err := url.Parse(link)
		must(t, err)
		key := strings.TrimPrefix(u.Path, "/ntrk/")
		if u.Host != addr || u.RawQuery != "" || u.Fragment != "" || key != "room" && !slices.Contains(hostile, key) {
			t.Errorf("the index links to %s", link)
		}
	}

	// The box takes a key as it is typed.
	for _, key := range []string{hostile[0], "\u202egnp.exe", " ", "%2f", "../x", "?a=b#c", "+", `\`, "\U0001f600"} {
		b.visit(t, addr, "/")
		b.run(t, nil, `key.focus(); key.value = arguments[0]`, key)
		b.press(t, keyEnter)
		b.shows(t, "127.0.0.1:4001")
	}
	b.staysAt(t, addr)
	b.quiet(t)
}

// plain fails the test if something of a hostile text is more than text, or breaks the text around it.
func (b *tab) plain(t *testing.T, what string) {
	t.Helper()
	var found []string
	b.run(t, &found, `
		const found = [];
		if (/hacked/.test(document.title) && !/[<>]|javascript:/.test(document.title)) found.push("title " + document.title);
		if (/[\u0000-\u001f\u007f-\u009f\u200e\u200f\u202a-\u202e\u2066-\u2069]/.test(document.title)) found.push("control characters in the title");
		for (let n, all = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT); n = all.nextNode();) {
			const text = n.data.replace(/[\n\t]/g, "");
			if (/[\u0000-\u001f\u007f-\u009f]/.test(text)) found.push("control characters in " + JSON.stringify(text));
			if (/[\u200e\u200f\u202a-\u202e\u2066-\u2069]/.test(text)) found.push("direction marks in " + JSON.stringify(text));
		}
		return found`)
	if len(found) > 0 {
		t.Errorf("%q: %q", what, found)
	}
}

func pageIndex(t *testing.T, bin string, b *tab) {
	addr := serve(t, bin)
	b.visit(t, addr, "/")
	b.until(t, `return document.activeElement == key || key.checkVisibility()`)
	var shown bool
	b.run(t, &shown, `return !!document.querySelector("#index")?.checkVisibility()`)
	if shown {
		t.Error("there is an index, which is off")
	}
	b.quiet(t, "/ntrk/")
	b.staysAt(t, addr)

	open := serve(t, bin, "--index")
	ask(t, "GET", open, "?port=4001", "")
	b.visit(t, open, "/")
	b.until(t, `return document.querySelector("#index")?.checkVisibility() && document.querySelector("#index").innerText.includes("room")`)
	b.quiet(t)

	// The page shows the beginning of a large index, and says so, however long the keys are.
	for i := range 500 {
		announced(t, open, fmt.Sprint(i)+strings.Repeat("\xff", 250), "", "4001", "")
	}
	b.visit(t, open, "/")
	b.until(t, `return document.querySelectorAll("#keys li").length == 500 && document.querySelector("#more-keys").innerText.includes("first 500 keys")`)
	b.quiet(t)
}

// pageTooLarge looks at a track that has too many peers for a stream.
func pageTooLarge(t *testing.T, bin string, b *tab) {
	addr := serve(t, bin, "--max-per-addr", "0")
	const peers = 10_001
	conn, err := net.Dial("tcp", addr)
	must(t, err)
	defer conn.Close()
	go func() {
		for port := range peers {
			fmt.Fprintf(conn, "GET /ntrk/room?port=%d&numwant=0 HTTP/1.1\r\nHost: x\r\n\r\n", 1000+port)
		}
	}()
	in := bufio.NewReader(conn)
	for range peers {
		reply, err := http.ReadResponse(in, nil)
		must(t, err)
		if text, err := io.ReadAll(reply.Body); err != nil || reply.StatusCode != http.StatusOK {
			t.Fatalf("%s: %s %v", reply.Status, text, err)
		}
	}
	b.visit(t, addr, "/ntrk/room")
	b.state(t, "sample")
	b.until(t, `return document.querySelector("#count").textContent == arguments[0]`, fmt.Sprint(peers))
	b.until(t, `return document.querySelectorAll("#peers .endpoint").length > 0`)
	b.staysAt(t, addr)
	b.quiet(t, "/ntrk/room?port=0")
}

// A proxy may add to the path, and may pass on the escape of a slash as a slash, as nginx does here. The
// page leads to keys with slashes there, too.
func pageBehindProxy(t *testing.T, bin string, b *tab) {
	dir, front, addr := t.TempDir(), "127.0.0.1:"+freePort(t), serve(t, bin, "--index", "--proxy", "127.0.0.1")
	must(t, os.WriteFile(filepath.Join(dir, "nginx.conf"), fmt.Appendf(nil, `
user root; daemon off; pid nginx.pid; error_log stderr;
events {}
http {
access_log off;
client_body_temp_path body; proxy_temp_path proxy; fastcgi_temp_path fastcgi; uwsgi_temp_path uwsgi; scgi_temp_path scgi;
server { listen %s; location /peers/ { proxy_pass http://%s/; proxy_http_version 1.1; proxy_set_header X-Forwarded-For $remote_addr; } }
}
`, front, addr), 0o600))
	nginx := start(t, dir, "nginx", "-p", dir, "-c", "nginx.conf")
	endBefore(t, nginx, syscall.SIGTERM)
	hasText(t, filepath.Join(dir, "nginx.pid"), nginx)
	const key = "chat/room 1"
	announced(t, addr, key, "", "4001", "")
	b.visit(t, front, "/peers/")
	b.until(t, `return document.querySelectorAll("#keys a").length == 1`)
	b.run(t, nil, `document.querySelector("#keys a").click()`)
	b.shows(t, "127.0.0.1:4001")
	b.state(t, "live")
	b.run(t, nil, `document.querySelector("#home").click()`)
	b.until(t, `return document.querySelectorAll("#keys a").length == 1`)
	b.run(t, nil, `document.querySelector("#key").focus()`)
	b.press(t, key+keyEnter)
	b.shows(t, "127.0.0.1:4001")
	b.staysAt(t, front)
	b.quiet(t)
}

// Another site cannot show the page in a frame.
func pageFramed(t *testing.T, bin string, b *tab) {
	addr := serve(t, bin)
	site := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/html; charset=utf-8")
		fmt.Fprintf(w, `<title>Another site</title><link rel="icon" href="data:,"><iframe src="http://%s/ntrk/room"></iframe>`, addr)
	}))
	defer site.Close()
	b.open(t, site.URL) // returns when the frame has loaded, or has been refused
	urls := b.requests(t)
	if !slices.Contains(urls, "http://"+addr+"/ntrk/room") {
		t.Fatalf("the site has not asked for the page: %q", urls)
	}
	for _, address := range urls {
		if strings.Contains(address, "/.ntrack/") {
			t.Errorf("the page goes on in the frame, and asks for %s", address)
		}
	}
}

// Without scripts the page says how to do without them.
func pageWithoutScripts(t *testing.T, bin string, b *tab) {
	addr := serve(t, bin)
	ask(t, "GET", addr, "?port=4001", "")
	b.devtools(t, "Emulation.setScriptExecutionDisabled", map[string]any{"value": true})
	defer b.devtools(t, "Emulation.setScriptExecutionDisabled", map[string]any{"value": false})
	b.visit(t, addr, "/ntrk/room")
	eventually(t, func() error {
		if text := b.text(t, "main"); !strings.Contains(text, "JavaScript") || !strings.Contains(text, "?format=text") {
			return fmt.Errorf("the page shows %q", text)
		}
		return nil
	})
	b.visit(t, addr, "/ntrk/room?format=text") // which is what it advises
	if text := b.text(t, "body"); text != "127.0.0.1:4001" {
		t.Errorf("?format=text shows %q", text)
	}
}

// pagePictures takes the pictures of the page. This renews those in docs:
//
//	NTRACK_SCREENSHOTS=$PWD/docs go test ./interop -run 'TestInterop/the_page_for_people/pictures'
func pagePictures(t *testing.T, bin string, b *tab) {
	dir, listen := os.Getenv("NTRACK_SCREENSHOTS"), "127.0.0.1:6969"
	if dir == "" {
		dir, listen = t.TempDir(), "127.0.0.1:0"
	}
	addr, _ := serveAt(t, bin, listen, "--index", "--proxy", "127.0.0.1")
	for i, host := range []string{"192.0.2.7", "192.0.2.19", "198.51.100.4", "2001:db8::9f"} {
		announced(t, addr, "lobby", host, "4000", fmt.Sprintf("worker %d of 4", i+1))
	}
	_, port, err := net.SplitHostPort(addr)
	must(t, err)
	b.visit(t, hostExample+":"+port, "/ntrk/lobby")
	b.labelled(t, "worker 1 of 4", "worker 2 of 4", "worker 3 of 4", "worker 4 of 4")
	for _, picture := range []struct {
		name          string
		width, height int
		scheme        string
	}{{"light", 800, 680, "light"}, {"dark", 800, 680, "dark"}, {"phone", 360, 640, "light"}} {
		b.screen(t, picture.width, picture.height, picture.scheme)
		image := b.screenshot(t)
		if size := len(image) >> 10; size > 100 {
			t.Errorf("the picture %s has %d KiB", picture.name, size)
		}
		must(t, os.WriteFile(filepath.Join(dir, "page-"+picture.name+".png"), image, 0o644))
	}
}
