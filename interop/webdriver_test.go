//go:build linux

package interop_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"regexp"
	"testing"
)

// The file of the browser. The program of that name in $PATH is a script.
const browser = "/usr/lib/chromium/chromium"

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
		"goog:chromeOptions": options{"binary": browser, "args": []string{
			"--headless=new", "--no-sandbox", "--no-proxy-server", "--disable-background-networking", "--disable-dev-shm-usage",
			"--remote-debugging-pipe", "--lang=en", "--force-device-scale-factor=1", "--user-data-dir=" + t.TempDir()}},
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
