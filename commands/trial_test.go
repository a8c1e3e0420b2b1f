//go:build unix

package commands_test

import (
	"bufio"
	"encoding/pem"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"ntrack/commands/commandstest"
	"ntrack/tracker"
)

// A trial is one run of ntrack, with a directory and trackers of its own.
type trial struct {
	t     *testing.T
	dir   string
	names map[string]string // the values of $NAME, each added when a line first uses it
	looks atomic.Int64      // the requests to $SLOW
	cmd   *exec.Cmd
	ended chan struct{}
}

func newTrial(t *testing.T) *trial {
	x := &trial{t: t, dir: t.TempDir(), names: make(map[string]string), ended: make(chan struct{})}
	for _, text := range []string{"lobby", "other", "token"} {
		if err := os.WriteFile(filepath.Join(x.dir, text), []byte(text+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return x
}

// start runs ntrack with a command line. At the end of the test, ntrack gets SIGTERM.
func (x *trial) start(line string) {
	x.t.Helper()
	x.cmd = exec.CommandContext(x.t.Context(), "ntrack", strings.Fields(x.expand(line))...)
	x.cmd.Dir = x.dir
	x.cmd.Env = append(os.Environ(), "HOME="+x.dir, "XDG_STATE_HOME=", "TMPDIR="+x.dir,
		"NTRACK_TRACKER="+x.expand("$AT"))
	out, err := os.Create(filepath.Join(x.dir, "output"))
	if err != nil {
		x.t.Fatal(err)
	}
	defer out.Close()
	x.cmd.Stdout, x.cmd.Stderr = out, out
	x.cmd.Cancel = func() error { return x.cmd.Process.Signal(syscall.SIGTERM) } // ntrack passes it on to COMMAND
	x.cmd.WaitDelay = patience
	if err := x.cmd.Start(); err != nil {
		x.t.Fatal(err)
	}
	go func() {
		_ = x.cmd.Wait()
		close(x.ended)
	}()
	x.t.Cleanup(func() { <-x.ended })
}

// output returns what the command has written so far.
func (x *trial) output() string {
	text, err := os.ReadFile(filepath.Join(x.dir, "output"))
	if err != nil {
		x.t.Fatal(err)
	}
	return string(text)
}

// wait waits until the command ends, and returns its exit code.
func (x *trial) wait() int {
	x.t.Helper()
	select {
	case <-x.ended:
	case <-time.After(patience):
		x.t.Fatalf("ntrack does not end; its output is\n%s", x.output())
	}
	return x.cmd.ProcessState.ExitCode()
}

// until waits until holds returns true or the command has ended.
func (x *trial) until(holds func() bool) {
	x.t.Helper()
	for deadline := time.Now().Add(patience); !holds(); {
		select {
		case <-x.ended:
			return
		case <-time.After(10 * time.Millisecond):
		}
		if time.Now().After(deadline) {
			x.t.Fatalf("not within %v; its output is\n%s", patience, x.output())
		}
	}
}

func (x *trial) waitFor(text string) {
	x.t.Helper()
	x.until(func() bool { return strings.Contains(x.output(), text) })
}

// addrs returns the addresses of the tracker that the command runs.
func (x *trial) addrs() (list []string) {
	x.t.Helper()
	x.waitFor("ntrack list ")
	at := regexp.MustCompile(`(?:tracker at http://|open: http |; http )([^/ ]*)`)
	for _, m := range at.FindAllStringSubmatch(x.output(), -1) {
		list = append(list, m[1])
	}
	if len(list) == 0 {
		x.t.Fatalf("no tracker; its output is\n%s", x.output())
	}
	return list
}

// listed reports whether a tracker lists a peer of the key lobby at this port.
func (x *trial) listed(at, port string) bool {
	_, body := get(x.t, "http://"+x.expand(at)+"/ntrk/lobby?port=0&format=text", "")
	return strings.Contains(body, port+"\n")
}

func (x *trial) expand(text string) string { return os.Expand(text, x.named) }

// named returns the value of $NAME. For most names it first starts a tracker. See [effects].
func (x *trial) named(name string) string {
	if value, ok := x.names[name]; ok {
		return value
	}
	tr, token := new(tracker.Tracker), ""
	ports := []string{"lobby?port=1", "lobby?port=2", "lobby?port=3", "other?port=7"}
	wrap := func(h http.Handler) http.Handler { return h }
	switch name {
	case "AT", "TLS":
	case "OTHER":
		ports = []string{"lobby?port=9"}
	case "LOCKED":
		tr.Tokens, token = []string{"token"}, "Bearer token"
	case "SLOW":
		tr.Interval = time.Hour
		wrap = func(h http.Handler) http.Handler {
			return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				x.looks.Add(1)
				r.Header.Del("Accept")
				h.ServeHTTP(w, r)
			})
		}
	case "SILENT":
		l, err := net.Listen("tcp4", "127.0.0.1:0")
		if err != nil {
			x.t.Fatal(err)
		}
		x.t.Cleanup(func() { _ = l.Close() })
		x.names[name] = l.Addr().String()
		return x.names[name]
	case "FREE":
		port, err := commandstest.FreePort(23_000)
		if err != nil {
			x.t.Fatal(err)
		}
		x.names[name] = port
		return port
	default:
		x.t.Fatalf("there is no $%s", name)
	}
	h := tracker.Handler(tr)
	for _, target := range ports {
		r, w := httptest.NewRequest("GET", "/ntrk/"+target, nil), httptest.NewRecorder()
		r.RemoteAddr = "127.0.0.1:12345"
		r.Header.Set("Authorization", token)
		if h.ServeHTTP(w, r); w.Code != http.StatusOK {
			x.t.Fatalf("%s: %d %s", target, w.Code, w.Body)
		}
	}
	srv := httptest.NewUnstartedServer(wrap(h))
	srv.Config.ErrorLog = nil
	if name == "TLS" {
		srv.StartTLS()
		ca := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: srv.Certificate().Raw})
		if err := os.WriteFile(filepath.Join(x.dir, "ca"), ca, 0o600); err != nil {
			x.t.Fatal(err)
		}
		x.names[name] = srv.URL
	} else {
		srv.Start()
		x.names[name] = srv.Listener.Addr().String()
	}
	x.t.Cleanup(func() {
		_ = srv.Listener.Close()
		tr.EndStreams()
		srv.CloseClientConnections()
		srv.Close()
	})
	return x.names[name]
}

// get requests a URL over a new connection.
func get(t *testing.T, url, forwarded string) (status int, body string) {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), "GET", url, nil)
	if err != nil {
		t.Fatal(err)
	}
	r.Close = true
	if forwarded != "" {
		r.Header.Set("X-Forwarded-For", forwarded)
	}
	resp, err := (&http.Client{Timeout: patience}).Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(b)
}

// asks returns an observe function, which requests each target from each address of the tracker.
// The result has the status of each reply, and the body of each refusal and of each reply in JSON.
func asks(targets string) func(*trial) string {
	return func(x *trial) (result string) {
		for _, at := range x.addrs() {
			for target := range strings.FieldsSeq(targets) {
				status, body := get(x.t, "http://"+at+target, "")
				result += fmt.Sprintf("%d ", status)
				if status != http.StatusOK || strings.Contains(target, "format=json") {
					result += strings.TrimSpace(body) + " "
				}
			}
		}
		return result
	}
}

// prints returns an observe function, which waits until the output contains text or the command ends.
func prints(text string) func(*trial) string {
	return func(x *trial) string {
		x.waitFor(text)
		if !strings.Contains(x.output(), text) {
			return fmt.Sprintf("exit code %d\n", x.wait()) + x.output()
		}
		return x.output()
	}
}

// printsAtJoins is an observe function. It makes peers join the key lobby until the command prints a
// line.
func printsAtJoins(x *trial) string {
	port := 100
	x.until(func() bool {
		port++
		get(x.t, fmt.Sprintf("http://%s/ntrk/lobby?port=%d", x.expand("$AT"), port), "")
		return strings.Contains(x.output(), "\n")
	})
	return x.output()
}

// dial connects to the tracker that the command runs.
func (x *trial) dial() net.Conn {
	x.t.Helper()
	c, err := net.Dial("tcp4", x.addrs()[0])
	if err != nil {
		x.t.Fatal(err)
	}
	x.t.Cleanup(func() { _ = c.Close() })
	_ = c.SetDeadline(time.Now().Add(patience))
	return c
}

// look sends a look over a connection, and reports whether the tracker answered.
func look(c net.Conn) bool {
	if _, err := io.WriteString(c, "GET /ntrk/k?port=0 HTTP/1.1\r\nHost: t\r\n\r\n"); err != nil {
		return false
	}
	resp, err := http.ReadResponse(bufio.NewReader(c), nil)
	if err != nil {
		return false
	}
	_, err = io.Copy(io.Discard, resp.Body)
	return err == nil && resp.StatusCode == http.StatusOK
}

// connect3 is an observe function. It opens three connections, and counts those that the tracker
// serves while all three are open.
func connect3(x *trial) string {
	conns := []net.Conn{x.dial(), x.dial(), x.dial()}
	served := slices.DeleteFunc(slices.Clone(conns), func(c net.Conn) bool { return !look(c) })
	served = slices.DeleteFunc(served, func(c net.Conn) bool { return !look(c) })
	return fmt.Sprintf("%d of %d", len(served), len(conns))
}

// firstClosed is an observe function. It reports which of two connections the tracker closes first:
// the one with an incomplete request, or the idle one, whose request was answered.
func firstClosed(x *trial) string {
	idle, request := x.dial(), x.dial()
	if !look(idle) {
		x.t.Fatal("not answered")
	}
	if _, err := io.WriteString(request, "GET /ntrk/k"); err != nil {
		x.t.Fatal(err)
	}
	closed := make(chan string, 2)
	for name, c := range map[string]net.Conn{"idle": idle, "request": request} {
		go func() {
			if _, err := io.Copy(io.Discard, c); err != nil {
				name += ": " + err.Error()
			}
			closed <- name
		}()
	}
	return <-closed
}

// printsWhenEnded ends a tracker that writes its addresses to the file new, and returns its output.
func printsWhenEnded(x *trial) string {
	x.until(func() bool {
		_, err := os.Stat(filepath.Join(x.dir, "new"))
		return err == nil
	})
	_ = x.cmd.Process.Signal(syscall.SIGTERM)
	x.wait()
	return x.output()
}
