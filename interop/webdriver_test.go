//go:build linux

package interop_test

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"regexp"
	"testing"
	"time"
)

// The file of the browser. The program of that name in $PATH is a script.
const browser = "/usr/lib/chromium/chromium"

// hostExample is a name for 127.0.0.1 in the browser.
const hostExample = "tracker.example"

// A tab is a tab of Chromium, driven through chromedriver by the W3C's WebDriver protocol.
type tab struct {
	session string // the URL of the WebDriver session
	client  *http.Client
}

// openTab starts a Chromium with a profile of its own. The test ends it.
func openTab(t *testing.T) *tab {
	t.Helper()
	driver := start(t, t.TempDir(), "chromedriver", "--port=0")
	var port string
	eventually(t, func() error {
		m := regexp.MustCompile(`successfully on port (\d+)`).FindStringSubmatch(driver.output(t, "stdout"))
		if m == nil {
			return fmt.Errorf("chromedriver names no port")
		}
		port = m[1]
		return nil
	}, driver)
	b := &tab{session: "http://127.0.0.1:" + port + "/session", client: &http.Client{Timeout: patience}}
	type options map[string]any
	var made struct {
		SessionID string `json:"sessionId"`
	}
	// Chromium ends as soon as the pipe to chromedriver closes, whatever ends chromedriver.
	b.call(t, "POST", "", options{"capabilities": options{"alwaysMatch": options{
		"goog:loggingPrefs": options{"browser": "ALL", "performance": "ALL"},
		"goog:chromeOptions": options{"binary": browser, "args": []string{
			"--headless=new", "--no-sandbox", "--no-proxy-server", "--disable-background-networking", "--disable-dev-shm-usage",
			"--remote-debugging-pipe", "--lang=en", "--host-resolver-rules=MAP " + hostExample + " 127.0.0.1", "--force-device-scale-factor=1", "--user-data-dir=" + t.TempDir()}},
	}}}, &made)
	b.session += "/" + made.SessionID
	t.Cleanup(func() { // its processes write into its directory until the session has ended
		if err := b.try("DELETE", "", nil, nil); err != nil {
			t.Error(err)
		}
	})
	return b
}

// call sends a command of WebDriver and reads its value. The test fails if the command does.
func (b *tab) call(t *testing.T, method, path string, params, value any) {
	t.Helper()
	must(t, b.try(method, path, params, value))
}

func (b *tab) try(method, path string, params, value any) error {
	var body io.Reader
	if method == "POST" {
		text, err := json.Marshal(params)
		if err != nil {
			return err
		}
		body = bytes.NewReader(text)
	}
	request, err := http.NewRequest(method, b.session+path, body)
	if err != nil {
		return err
	}
	reply, err := b.client.Do(request)
	if err != nil {
		return err
	}
	defer reply.Body.Close()
	text, err := io.ReadAll(reply.Body)
	if err != nil {
		return err
	}
	if reply.StatusCode != http.StatusOK {
		return fmt.Errorf("%s %s: %s: %s", method, path, reply.Status, text)
	}
	answer := struct{ Value any }{value}
	return json.Unmarshal(text, &answer)
}

func (b *tab) open(t *testing.T, address string) {
	t.Helper()
	b.call(t, "POST", "/url", map[string]string{"url": address}, nil)
}

// run runs the body of a JavaScript function in the page and reads what it returns. A promise is waited for.
func (b *tab) run(t *testing.T, value any, function string, args ...any) {
	t.Helper()
	must(t, b.tryRun(value, function, args...))
}

func (b *tab) tryRun(value any, function string, args ...any) error {
	if args == nil {
		args = []any{}
	}
	return b.try("POST", "/execute/sync", map[string]any{"script": function, "args": args}, value)
}

// another goes on in a new tab, and closes this one.
func (b *tab) another(t *testing.T) {
	t.Helper()
	var made struct{ Handle string }
	b.call(t, "POST", "/window/new", map[string]string{"type": "tab"}, &made)
	b.call(t, "DELETE", "/window", nil, nil)
	b.call(t, "POST", "/window", map[string]string{"handle": made.Handle}, nil)
}

// devtools sends a command of Chromium's own protocol, for what WebDriver does not have.
func (b *tab) devtools(t *testing.T, command string, params map[string]any) {
	t.Helper()
	b.call(t, "POST", "/goog/cdp/execute", map[string]any{"cmd": command, "params": params}, nil)
}

// screen sets the size of the screen in CSS pixels and the colour scheme, "light" or "dark".
func (b *tab) screen(t *testing.T, width, height int, scheme string) {
	t.Helper()
	b.devtools(t, "Emulation.setDeviceMetricsOverride", map[string]any{
		"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 500})
	b.devtools(t, "Emulation.setEmulatedMedia", map[string]any{
		"features": []map[string]string{{"name": "prefers-color-scheme", "value": scheme}}})
}

// screenshot returns a PNG of what the screen shows.
func (b *tab) screenshot(t *testing.T) []byte {
	t.Helper()
	var text string
	b.call(t, "GET", "/screenshot", nil, &text)
	png, err := base64.StdEncoding.DecodeString(text)
	must(t, err)
	return png
}

// Keys as WebDriver names them.
const (
	keyTab   = "\uE004"
	keyEnter = "\uE007"
	keyShift = "\uE008"
)

// press presses keys one after the other, as at a keyboard. Whatever has the focus gets them.
func (b *tab) press(t *testing.T, keys string) {
	t.Helper()
	var actions []map[string]string
	for _, key := range keys {
		actions = append(actions, map[string]string{"type": "keyDown", "value": string(key)},
			map[string]string{"type": "keyUp", "value": string(key)})
	}
	b.call(t, "POST", "/actions", map[string]any{"actions": []any{
		map[string]any{"type": "key", "id": "keyboard", "actions": actions}}}, nil)
}

// A logEntry is a line of a log that Chromium keeps.
type logEntry struct {
	Level, Source, Message string
}

// log returns what has come to a log since the last call: "browser" is the console of the page, which
// has violations of the content security policy, too; "performance" has events of the network.
func (b *tab) log(t *testing.T, name string) (entries []logEntry) {
	t.Helper()
	b.call(t, "POST", "/se/log", map[string]string{"type": name}, &entries)
	return entries
}

// requests returns the URLs that the page has asked for since the last call.
func (b *tab) requests(t *testing.T) (urls []string) {
	t.Helper()
	for _, entry := range b.log(t, "performance") {
		var event struct {
			Message struct {
				Method string
				Params struct {
					Request struct{ URL string }
					URL     string
				}
			}
		}
		must(t, json.Unmarshal([]byte(entry.Message), &event))
		switch event.Message.Method {
		case "Network.requestWillBeSent":
			urls = append(urls, event.Message.Params.Request.URL)
		case "Network.webSocketCreated":
			urls = append(urls, event.Message.Params.URL)
		}
	}
	return urls
}

// staysAt fails the test if the page has sent a request to any other host than this one, or one that would
// list a program which is no browser, or none at all.
func (b *tab) staysAt(t *testing.T, addr string) {
	t.Helper()
	urls := b.requests(t)
	if len(urls) == 0 {
		t.Error("the log has no request, not even the one for the page")
	}
	for _, text := range urls {
		u, err := url.Parse(text)
		must(t, err)
		if u.Host != addr || u.Scheme != "http" || u.RawQuery != "" && u.Query().Get("port") != "0" {
			t.Errorf("the page asked for %s", text)
		}
	}
}

// text returns what the element with this name shows. It needs no scripts in the page.
func (b *tab) text(t *testing.T, element string) (text string) {
	t.Helper()
	var found map[string]string
	b.call(t, "POST", "/element", map[string]string{"using": "css selector", "value": element}, &found)
	for _, id := range found {
		b.call(t, "GET", "/element/"+id+"/text", nil, &text)
	}
	return text
}

// until waits until the function returns true in the page. The test fails with what state returns.
func (b *tab) until(t *testing.T, function string, args ...any) {
	t.Helper()
	deadline := time.Now().Add(patience)
	for {
		var ok bool
		err := b.tryRun(&ok, function, args...)
		if err == nil && ok {
			return
		}
		if time.Now().After(deadline) {
			var text string
			_ = b.tryRun(&text, "return document.body.innerText")
			t.Fatalf("not so after %v: %s %q (%v); the page shows\n%s\nconsole: %q", patience, function, args, err, text, b.log(t, "browser"))
		}
		time.Sleep(50 * time.Millisecond)
	}
}
