package commands_test

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"ntrack/tracker/store/valkey/valkeytest"
)

// password is in the URL of each database that these tests use, if it has one.
const password = "s3cret-Passw0rd"

// A storeTrial is what serve says about a database.
type storeTrial struct {
	name string
	url  func(*testing.T) string
	says string // a regular expression for the whole line, without "ntrack: --store-file FILE: "
	// waits says that serve tries again: the line is a warning. starts says that serve starts: it is a
	// warning, too.
	waits, starts bool
}

func started(o valkeytest.Options, prepare ...func(*valkeytest.Engine)) func(*testing.T) string {
	return func(t *testing.T) string {
		e := valkeytest.Start(t, o)
		for _, p := range prepare {
			p(e)
		}
		return e.URL()
	}
}

func fixed(url string) func(*testing.T) string { return func(*testing.T) string { return url } }

// nobody returns an address at which nothing listens.
func nobody(t *testing.T) string {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	_ = l.Close()
	return l.Addr().String()
}

// listening returns a function that returns the URL of a listener, which serves each connection.
func listening(scheme string, serve func(net.Conn)) func(*testing.T) string {
	return func(t *testing.T) string {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = l.Close() })
		go func() {
			for {
				c, err := l.Accept()
				if err != nil {
					return
				}
				t.Cleanup(func() { _ = c.Close() })
				go serve(c)
			}
		}()
		return scheme + "://:" + password + "@" + l.Addr().String()
	}
}

func storeTrials() []storeTrial {
	const at = `valkey://127\.0\.0\.1:\d+`
	secured := valkeytest.Options{User: "ntrack", Password: password}
	replaced := func(old, new string) func(*testing.T) string {
		return func(t *testing.T) string { return strings.Replace(started(secured)(t), old, new, 1) }
	}
	without := func(command string) func(*testing.T) string {
		return started(valkeytest.Options{User: "ntrack", Password: password, Rules: "~* &* +@all -" + command})
	}
	return []storeTrial{
		{name: "nothing listens", url: func(t *testing.T) string {
			return "valkey://:" + password + "@" + nobody(t)
		}, says: at + `: connection refused; is it running, and is the port right\?`, waits: true},
		{name: "no such host", url: fixed("valkey://:" + password + "@no-such-host.invalid:6379"), says: `valkey://no-such-host\.invalid:6379: no such host.*`, waits: true},
		{name: "a wrong password", url: replaced(password, "wrong-"+password), says: at + `: the user or the password is wrong`},
		{name: "a wrong user", url: replaced("ntrack:", "other:"), says: at + `: the user or the password is wrong`},
		{name: "no password", url: replaced("ntrack:"+password+"@", ""), says: at + `: it needs a user and a password.*`},
		{name: "a user without rights", url: started(valkeytest.Options{User: "ntrack", Password: password, Rules: "resetkeys ~ntrk:* resetchannels &ntrk:* +@all -zadd"}),
			says: at + `: the user may not run ZADD.*`},
		{name: "a user without streams", url: without("ssubscribe"), says: at + `: the user may not run SSUBSCRIBE; .*`},
		{name: "a user without the index", url: without("scan"), says: at + `: the user may not run SCAN; .*`},
		{name: "a user without the time", url: without("time"), says: at + `: the user may not run TIME; .*`},
		{name: "a user without EXPIRE", url: without("expire"), says: at + `: the user may not run EXPIRE; .*`},
		{name: "a user for other keys", url: started(valkeytest.Options{User: "ntrack", Password: password, Rules: "resetkeys ~other:* resetchannels &other:* +@all"}),
			says: at + `: the user may not use keys that begin with ntrk:.*`},
		{name: "a replica", url: func(t *testing.T) string {
			return "valkey://" + valkeytest.Start(t, valkeytest.Options{Replicas: 1}).Nodes[1].Addr
		}, says: at + `: it is a replica.*`},
		{name: "too old", url: started(valkeytest.Options{Config: []string{`rename-command SPUBLISH ""`}}),
			says: at + `: redis \S+ has no command SPUBLISH.*`},
		{name: "full", url: started(valkeytest.Options{}, func(e *valkeytest.Engine) { e.Must("CONFIG", "SET", "maxmemory", "100kb") }),
			says: at + `: it is full.*maxmemory.*`, starts: true},
		{name: "a policy that evicts", url: started(valkeytest.Options{Config: []string{"maxmemory 100mb", "maxmemory-policy allkeys-lru"}}),
			says: at + `: .*maxmemory-policy.*noeviction.*`, starts: true},
		{name: "a web server", url: func(t *testing.T) string {
			s := httptest.NewServer(http.NotFoundHandler())
			t.Cleanup(s.Close)
			return strings.Replace(s.URL, "http://", "valkey://:"+password+"@", 1)
		}, says: at + `: it is not Valkey or Redis.*`},
		{name: "a program that says something else", url: listening("valkey", func(c net.Conn) { fmt.Fprint(c, "SSH-2.0-OpenSSH_9.2\r\n") }), says: at + `: it is not Valkey or Redis.*`},
		{name: "a program that is silent", url: listening("valkey", func(net.Conn) {}), says: at + `: no answer in time.*`, waits: true},
		{name: "TLS to a server without", url: func(t *testing.T) string {
			return strings.Replace(valkeytest.Start(t, valkeytest.Options{}).URL(), "valkey://", "valkeys://", 1)
		}, says: `valkeys://127\.0\.0\.1:\d+: no answer in time;.* whether it speaks TLS`, waits: true},
		{name: "a server that wants TLS", url: func(t *testing.T) string {
			return strings.Replace(valkeytest.Start(t, valkeytest.Options{TLS: true}).URL(), "valkeys://", "valkey://", 1)
		}, says: at + `: .* if it wants TLS, use valkeys://`, waits: true},
		{name: "a certificate that nobody trusts", url: started(valkeytest.Options{TLS: true}), says: `valkeys://127\.0\.0\.1:\d+: .*certificate.*`},
		{name: "a cluster without some slots", url: started(valkeytest.Options{Masters: 3}, func(e *valkeytest.Engine) {
			e.Nodes[1].Must("CONFIG", "SET", "cluster-require-full-coverage", "yes")
			for _, n := range e.Nodes {
				n.Must("CLUSTER", "DELSLOTS", "7000")
			}
		}), says: `valkey://\S+: .*slots.*`, waits: true},
		{name: "a number of a database in a cluster", url: func(t *testing.T) string {
			return strings.Replace(valkeytest.Start(t, valkeytest.Options{Masters: 3}).URL(), "?", "/1?", 1)
		}, says: `valkey://\S+: a cluster has only database 0; .*`},
		{name: "sentinels that watch another master", url: func(t *testing.T) string {
			return regexp.MustCompile(`master_set=\w+`).ReplaceAllString(valkeytest.Start(t, valkeytest.Options{Sentinels: 1}).URL(), "master_set=other")
		}, says: `valkey://\S+ \(other\): the sentinels know no master of that name; check master_set`},
		{name: "a sentinel as the database", url: func(t *testing.T) string {
			return "valkey://" + valkeytest.Start(t, valkeytest.Options{Sentinels: 1}).Sentinels[0].Addr
		}, says: at + `: it is a sentinel; add master_set=NAME, .*`},
		{name: "a database as the sentinel", url: func(t *testing.T) string {
			return valkeytest.Start(t, valkeytest.Options{}).URL() + "?master_set=lobby"
		}, says: at + ` \(lobby\): it is no sentinel; leave out master_set, .*`},
		{name: "two servers that are no cluster", url: func(t *testing.T) string {
			return valkeytest.Start(t, valkeytest.Options{}).URL() + "?addr=" + valkeytest.Start(t, valkeytest.Options{}).Nodes[0].Addr
		}, says: `valkey://\S+: it is no cluster, .* leave out addr.*`},
	}
}

// Whatever is wrong with the database, serve says in one line which database, what is wrong and what to
// do. It never says the password.
func TestStoreTrials(t *testing.T) {
	for _, c := range storeTrials() {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			file := filepath.Join(t.TempDir(), "store")
			if err := os.WriteFile(file, []byte(c.url(t)+"\n"), 0o600); err != nil {
				t.Fatal(err)
			}
			server := newManager(t, "").start(t, "--listen", "127.0.0.1:0", "--store-file", file)
			if c.waits {
				server.out.await(t, "; ntrack tries again for ")
			}
			if c.starts {
				server.out.await(t, "ntrack list ")
			}
			if c.waits || c.starts {
				server.signal(t, syscall.SIGTERM)
			}
			code, out := server.wait(t), server.out
			lines := strings.Split(strings.TrimSuffix(out.String(), "\n"), "\n")
			end := ""
			if c.waits {
				end = "; ntrack tries again for 30s"
			}
			want := regexp.MustCompile(`^ntrack: --store-file ` + regexp.QuoteMeta(file) + `: ` + c.says + end + `$`)
			if !want.MatchString(lines[0]) || !c.starts && len(lines) > 1 || strings.Contains(out.String(), password) {
				t.Errorf("serve prints\n%s\nwant\n%s", out, want)
			}
			if fails := !c.waits && !c.starts; fails != (code == 1) || !fails && code != 0 {
				t.Errorf("exit code %d", code)
			}
		})
	}
}

// A password on the command line gets a warning, and one in the environment or in a file that is for the
// tracker alone does not. Nothing that serve shows has the password.
func TestStorePassword(t *testing.T) {
	engine := valkeytest.Start(t, valkeytest.Options{User: "ntrack", Password: password})
	dir := t.TempDir()
	private, public := filepath.Join(dir, "private"), filepath.Join(dir, "public")
	for file, mode := range map[string]os.FileMode{private: 0o600, public: 0o644} {
		if err := os.WriteFile(file, []byte(engine.URL()), mode); err != nil {
			t.Fatal(err)
		}
	}
	const inSight = "every user of this machine can see the password"
	for _, c := range []struct {
		args    []string
		env     string
		warning string
	}{
		{[]string{"--store", engine.URL()}, "", inSight},
		{[]string{"--store", engine.URL(), "--log-format", "json", "--log-level", "debug"}, "", inSight},
		{nil, engine.URL(), ""},
		{[]string{"--store-file", private}, "", ""},
		{[]string{"--store-file", public}, "", "chmod 600"},
	} {
		m := newManager(t, "")
		m.env = append(m.env, "NTRACK_STORE="+c.env)
		server := m.start(t, append([]string{"--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"}, c.args...)...)
		m.await(t, "READY=1")
		out := server.out
		out.await(t, "token")
		admin := regexp.MustCompile(`admin"?[ :]"?(127\.0\.0\.1:\d+)`)
		reply, err := http.Get("http://" + admin.FindStringSubmatch(out.String())[1] + "/metrics")
		if err != nil {
			t.Fatal(err)
		}
		for lines := bufio.NewScanner(reply.Body); lines.Scan(); {
			if strings.Contains(lines.Text(), password) {
				t.Errorf("/metrics has %q", lines.Text())
			}
		}
		_ = reply.Body.Close()
		server.signal(t, syscall.SIGTERM)
		if code := server.wait(t); code != 0 {
			t.Errorf("%q: exit code %d", c.args, code)
		}
		text := out.String()
		if strings.Contains(text, password) || strings.Contains(text, inSight) != (c.warning == inSight) || !strings.Contains(text, c.warning) ||
			!strings.Contains(text, "valkey://"+engine.Nodes[0].Addr) {
			t.Errorf("%q: serve prints\n%s", c.args, text)
		}
	}
}

// Trackers share a table if they have the same database and the same prefix.
func TestStorePrefix(t *testing.T) {
	t.Parallel()
	engine := valkeytest.Start(t, valkeytest.Options{})
	announce := func(port, want string, args ...string) {
		t.Helper()
		addr, m := filepath.Join(t.TempDir(), "addr"), newManager(t, "")
		m.start(t, append([]string{"--listen", "127.0.0.1:0", "--addr-file", addr, "--store", engine.URL()}, args...)...)
		m.await(t, "READY=1")
		at, err := os.ReadFile(addr)
		if err != nil {
			t.Fatal(err)
		}
		reply, err := http.Get("http://" + strings.TrimSpace(string(at)) + "/ntrk/k?format=text&port=" + port)
		if err != nil {
			t.Fatal(err)
		}
		defer reply.Body.Close()
		body, err := io.ReadAll(reply.Body)
		if got := strings.Join(strings.Fields(string(body)), " "); err != nil || got != want {
			t.Errorf("%q: %q, %v; want %q", args, got, err, want)
		}
	}
	announce("1", "")
	announce("2", "127.0.0.1:1")
	announce("3", "", "--store-prefix", "other")
	announce("4", "127.0.0.1:3", "--store-prefix", "other")
	announce("5", "127.0.0.1:1 127.0.0.1:2", "--store-prefix", "ntrk")

	server := newManager(t, "").start(t, "--store", engine.URL(), "--store-prefix", "a{b}")
	code := server.wait(t)
	if want := `ntrack: --store-prefix "a{b}": 1 to 32 letters, digits, dots, underscores or hyphens; see ` + "`ntrack serve --help`\n"; code != 2 || server.out.String() != want {
		t.Errorf("exit code %d, %s", code, server.out)
	}
}

// A shared table keeps no peer ids, and so no labels.
func TestStoreWithoutLabels(t *testing.T) {
	engine := valkeytest.Start(t, valkeytest.Options{})
	addr, m := filepath.Join(t.TempDir(), "addr"), newManager(t, "")
	m.start(t, "--listen", "127.0.0.1:0", "--addr-file", addr, "--store", engine.URL())
	m.await(t, "READY=1")
	at, err := os.ReadFile(addr)
	if err != nil {
		t.Fatal(err)
	}
	track := strings.TrimSpace(string(at)) + " k"
	if code, _, stderr := runLine(t, "announce "+track+" --port 4000 --label me"); code != 0 {
		t.Fatalf("exit code %d, %s", code, stderr)
	}
	for options, want := range map[string]string{
		"":                               "PEER             SCOPE\n127.0.0.1:4000   loopback\n",
		" -o json":                       `"peers":["127.0.0.1:4000"]}` + "\n",
		" --format {{.Port}}={{.Label}}": "4000=\n",
	} {
		if code, stdout, stderr := runLine(t, "list "+track+options); code != 0 || !strings.HasSuffix(stdout, want) || stderr != "" {
			t.Errorf("ntrack list%s: exit code %d\n%s%s", options, code, stdout, stderr)
		}
	}
}

// /readyz fails within five seconds after the database is away, and succeeds when it is back. /healthz
// does not fail, nor does the check for systemd's watchdog, since a restart of the tracker would not help.
// Requests get status 503 meanwhile, and the log says why.
func TestStoreAway(t *testing.T) {
	t.Parallel()
	engine := valkeytest.Start(t, valkeytest.Options{})
	addr, m := filepath.Join(t.TempDir(), "addr"), newManager(t, "")
	m.env = append(m.env, "WATCHDOG_USEC=6000000")
	server := m.start(t, "--listen", "127.0.0.1:0", "--addr-file", addr, "--admin", "127.0.0.1:0", "--store", engine.URL())
	m.await(t, "READY=1")
	server.out.await(t, "; token")
	admin := regexp.MustCompile(`admin (\S+)`).FindStringSubmatch(server.out.String())[1]
	at, err := os.ReadFile(addr)
	if err != nil {
		t.Fatal(err)
	}
	get := func(url string) (int, string, http.Header) {
		reply, err := http.Get("http://" + url)
		if err != nil {
			t.Fatal(err)
		}
		defer reply.Body.Close()
		body, err := io.ReadAll(reply.Body)
		if err != nil {
			t.Fatal(err)
		}
		return reply.StatusCode, string(body), reply.Header
	}
	becomes := func(want int) (text string) {
		t.Helper()
		for end := time.Now().Add(patience); ; time.Sleep(20 * time.Millisecond) {
			status, text, _ := get(admin + "/readyz")
			if status == want {
				return text
			}
			if time.Now().After(end) {
				t.Fatalf("/readyz still has status %d", status)
			}
		}
	}
	becomes(200)
	engine.Suspend()
	if text := becomes(503); !strings.HasPrefix(text, "the shared table at valkey://"+engine.Nodes[0].Addr+" has not answered for ") {
		t.Errorf("/readyz: %s", text)
	}
	if status, _, _ := get(admin + "/healthz"); status != 200 {
		t.Errorf("/healthz: %d", status)
	}
	if _, text, _ := get(admin + "/metrics"); !strings.Contains(text, "\nntrack_store_up 0\n") || !strings.Contains(text, "\nntrack_ready 0\n") {
		t.Errorf("/metrics: %s", text)
	}
	if status, text, header := get(strings.TrimSpace(string(at)) + "/ntrk/k?port=1"); status != 503 || header.Get("Retry-After") == "" {
		t.Errorf("an announce: %d %s", status, text)
	}
	server.out.await(t, "ntrack: --store: valkey://"+engine.Nodes[0].Addr+" does not answer; clients get status 503 until it does\n")
	for range 3 { // two of these may be from before
		m.await(t, "WATCHDOG=1")
	}
	engine.Resume()
	server.out.await(t, " answers again\n")
	becomes(200)
	if _, text, _ := get(admin + "/metrics"); !strings.Contains(text, "\nntrack_store_up 1\n") {
		t.Errorf("/metrics: %s", text)
	}
}
