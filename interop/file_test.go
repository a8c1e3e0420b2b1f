//go:build linux

package interop_test

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// The recipes for files in docs/manual.md run here as they are there, except that the test replaces what a
// machine has only one of: tracker.example by its own tracker, directories in /etc by one of its own, and the
// command that makes the system's program read the file again by one for the program of the test.

// A recipe is a part of docs/manual.md: a command that keeps a file, and the configuration that names the file.
type recipe struct{ command, config string }

// recipes returns the text of all recipes.
func recipes(t *testing.T) string {
	t.Helper()
	page, err := os.ReadFile("../docs/manual.md")
	must(t, err)
	_, text, _ := strings.Cut(string(page), "\n### Files for other programs\n")
	text, _, _ = strings.Cut(text, "\n## ")
	return text
}

// readRecipe returns a recipe by the word in bold with which it begins. The files are in dir.
func readRecipe(t *testing.T, name, addr, dir string) (r recipe) {
	t.Helper()
	_, text, found := strings.Cut(recipes(t), "\n**"+name+"**")
	if !found {
		t.Fatalf("docs/manual.md has no recipe for %s", name)
	}
	text, _, _ = strings.Cut(text, "\n**")
	text = regexp.MustCompile(`/etc/(\w+/)?`).ReplaceAllString(strings.ReplaceAll(text, "tracker.example", addr), dir+"/")
	for _, block := range regexp.MustCompile("(?ms)^```(\\w+)\n(.*?)^```$").FindAllStringSubmatch(text, -1) {
		if block[1] == "sh" {
			r.command = cmp.Or(r.command, block[2])
		} else {
			r.config = block[2]
		}
	}
	if !strings.HasPrefix(r.command, "ntrack watch ") {
		t.Fatalf("the recipe for %s begins with %q", name, r.command)
	}
	return r
}

// start runs the command of a recipe, with what reloads the program in place of the words that the page has for
// this.
func (r recipe) start(t *testing.T, bin, dir, words, reload string) *program {
	t.Helper()
	if words != "" && !strings.Contains(r.command, words) {
		t.Fatalf("the recipe does not run %q:\n%s", words, r.command)
	}
	line := strings.ReplaceAll(r.command, words, reload)
	return start(t, dir, "sh", "-c", "exec "+bin+strings.TrimPrefix(line, "ntrack"))
}

// A server is a program that a peer stands for. It answers with its name, even if its peer is gone, and notes
// when it was asked last.
type server struct {
	name, port string

	mu    sync.Mutex
	asked int
	last  time.Time
}

func startServer(t *testing.T, name string) *server {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	s := &server{name: name}
	_, s.port, _ = net.SplitHostPort(l.Addr().String())
	h := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		s.mu.Lock()
		s.asked, s.last = s.asked+1, time.Now()
		s.mu.Unlock()
		w.Header().Set("Content-Type", "text/plain")
		fmt.Fprintln(w, name, "1") // this is a metric, too
	})}
	go func() { _ = h.Serve(l) }()
	t.Cleanup(func() { _ = h.Close() })
	return s
}

// stats returns how often the server was asked, and when last.
func (s *server) stats() (asked int, last time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.asked, s.last
}

// join lists the server while a command runs, and waits until it is listed.
func (s *server) join(t *testing.T, bin, addr, key string) (peer *program) {
	t.Helper()
	peer = start(t, t.TempDir(), bin, "announce", addr, key, "--port", s.port, "--", "sleep", "600")
	eventually(t, func() error {
		stdout, _, _ := run(t, bin, "list", addr, key, "-q")
		if !strings.Contains(stdout, "127.0.0.1:"+s.port+"\n") {
			return fmt.Errorf("%s is not listed: %q", s.name, stdout)
		}
		return nil
	}, peer)
	return peer
}

// kill kills a program, and returns when.
func (p *program) kill(t *testing.T) time.Time {
	t.Helper()
	must(t, p.cmd.Process.Kill())
	<-p.done
	return time.Now()
}

// askFront asks a proxy, over a new connection each time, and returns the name of the server that answers.
func askFront(front string) (name string, err error) {
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: patience}
	reply, err := client.Get("http://" + front + "/")
	if err != nil {
		return "", err
	}
	defer reply.Body.Close()
	body, err := io.ReadAll(reply.Body)
	if err == nil && reply.StatusCode != 200 {
		err = errors.New(reply.Status)
	}
	name, _, _ = strings.Cut(string(body), " ")
	return name, err
}

// balance has peers join and be killed behind a proxy that shares requests among the peers of the key web. The
// servers of killed peers still answer, so the test sees each request that they get.
func balance(t *testing.T, bin, addr, front string, needs ...*program) {
	a, b := startServer(t, "a"), startServer(t, "b")
	expectAnswer := func(want string) {
		t.Helper()
		eventually(t, func() error {
			name, err := askFront(front)
			if name != want || err != nil {
				return fmt.Errorf("%q answers, %v; want %q", name, err, want)
			}
			return nil
		}, needs...)
	}
	peerA := a.join(t, bin, addr, "web")
	expectAnswer("a")

	for try := 1; ; try++ {
		d := killOne(t, bin, addr, front, b, expectAnswer)
		if d <= time.Second {
			break
		}
		if try == 3 { // on a busy machine one of three may be late
			t.Errorf("%v after a peer was killed, it got a request", d)
			break
		}
	}

	peerA.kill(t) // there is no peer now, which the program must accept
	eventually(t, func() error {
		if name, err := askFront(front); err == nil {
			return fmt.Errorf("%s answers, and there is no peer", name)
		}
		return nil
	}, needs...)
	b.join(t, bin, addr, "web")
	expectAnswer("b")
}

// killOne has a server join and get a request, and kills its peer. It returns how much later the server got
// its last request. No request may fail meanwhile.
func killOne(t *testing.T, bin, addr, front string, b *server, expectAnswer func(string)) time.Duration {
	t.Helper()
	peer := b.join(t, bin, addr, "web")
	joined := time.Now()
	expectAnswer(b.name)
	_, first := b.stats()
	t.Logf("%v after a peer was seen in the list, it got a request", first.Sub(joined).Round(time.Millisecond))

	killed := peer.kill(t)
	failed := 0
	for others := 0; others < 100; others++ {
		name, err := askFront(front)
		if name == b.name {
			others = 0
		}
		if err != nil {
			failed++
			t.Logf("%v after a peer was killed: %v", time.Since(killed), err)
		}
		if time.Since(killed) > patience {
			t.Fatalf("%v after a peer was killed, it still gets requests", time.Since(killed))
		}
	}
	asked, last := b.stats()
	d := max(0, last.Sub(killed)).Round(time.Millisecond)
	t.Logf("%v after a peer was killed, it got its last request of %d", d, asked)
	if failed > 0 {
		t.Errorf("%d requests failed while a peer was killed", failed)
	}
	return d
}

func nginxFile(t *testing.T, bin string) {
	dir, front, addr := t.TempDir(), "127.0.0.1:"+freePort(t), serve(t, bin)
	r := readRecipe(t, "nginx", addr, dir)
	must(t, os.WriteFile(filepath.Join(dir, "nginx.conf"), fmt.Appendf(nil, `
user root; daemon off; worker_processes 2; pid nginx.pid; error_log stderr;
events {}
http {
access_log off;
client_body_temp_path body; proxy_temp_path proxy; fastcgi_temp_path fastcgi; uwsgi_temp_path uwsgi; scgi_temp_path scgi;
%s
server { listen %s; location / { proxy_pass http://web; } }
}
`, r.config, front), 0o600))
	command := "nginx -p " + dir + " -c nginx.conf"
	watcher := r.start(t, bin, dir, "nginx -s reload", "test ! -s nginx.pid || "+command+" -s reload")
	hasText(t, filepath.Join(dir, "web.servers"), watcher)
	nginx := start(t, dir, "sh", "-c", "exec "+command)
	endBefore(t, nginx, syscall.SIGTERM)
	hasText(t, filepath.Join(dir, "nginx.pid"), nginx)
	balance(t, bin, addr, front, watcher, nginx)
}

func haproxyFile(t *testing.T, bin string) {
	dir, front, addr := t.TempDir(), "127.0.0.1:"+freePort(t), serve(t, bin)
	r := readRecipe(t, "HAProxy", addr, dir)
	must(t, os.WriteFile(filepath.Join(dir, "haproxy.cfg"), fmt.Appendf(nil, `
global
	stats socket %s/admin expose-fd listeners
defaults
	mode http
	timeout connect 5s
	timeout client 30s
	timeout server 30s
frontend front
	bind %s
	default_backend web
`, dir, front), 0o600))
	watcher := r.start(t, bin, dir, "systemctl reload haproxy", "test ! -s haproxy.pid || kill -USR2 $(cat haproxy.pid)")
	hasText(t, filepath.Join(dir, "web.cfg"), watcher)
	haproxy := start(t, dir, "haproxy", "-W", "-db", "-f", "haproxy.cfg", "-f", "web.cfg")
	endBefore(t, haproxy, syscall.SIGTERM)
	eventually(t, func() error {
		if !strings.Contains(haproxy.output(t, "stderr"), "Loading success") {
			return errors.New("HAProxy has not started")
		}
		return nil
	}, haproxy)
	// HAProxy is ready for signals now. With -p it would empty this file for a moment at each reload.
	must(t, os.WriteFile(filepath.Join(dir, "haproxy.pid"), fmt.Append(nil, haproxy.cmd.Process.Pid), 0o600))
	balance(t, bin, addr, front, watcher, haproxy)
}

// hasText waits until a file is there and not empty.
func hasText(t *testing.T, name string, needs ...*program) {
	t.Helper()
	eventually(t, func() error {
		info, err := os.Stat(name)
		if err == nil && info.Size() == 0 {
			err = errors.New(name + " is empty")
		}
		return err
	}, needs...)
}

// endBefore ends a program by a signal when the test ends, before it is killed: it ends its workers then.
func endBefore(t *testing.T, p *program, signal syscall.Signal) {
	t.Cleanup(func() {
		_ = p.cmd.Process.Signal(signal)
		select {
		case <-p.done:
		case <-time.After(patience):
		}
	})
}

// Prometheus reads a file again when it is replaced, and scrapes the peers in it.
func prometheusFile(t *testing.T, bin string) {
	dir, web, addr := t.TempDir(), "127.0.0.1:"+freePort(t), serve(t, bin)
	r := readRecipe(t, "Prometheus", addr, dir)
	must(t, os.WriteFile(filepath.Join(dir, "prometheus.yml"), []byte(
		"global: {scrape_interval: 250ms, scrape_timeout: 250ms}\n"+r.config), 0o600))
	watcher := r.start(t, bin, dir, "", "")
	a, b := startServer(t, "a"), startServer(t, "b")
	a.join(t, bin, addr, "metrics")
	prometheus := start(t, dir, "prometheus", "--config.file", filepath.Join(dir, "prometheus.yml"),
		"--storage.tsdb.path", filepath.Join(dir, "data"), "--web.listen-address", web)
	isAsked := func(s *server, times int) {
		t.Helper()
		before, _ := s.stats()
		eventually(t, func() error {
			if asked, _ := s.stats(); asked < before+times {
				return fmt.Errorf("%s was scraped %d times, want %d", s.name, asked-before, times)
			}
			return nil
		}, watcher, prometheus)
	}
	isAsked(a, 1)
	peerB := b.join(t, bin, addr, "metrics")
	joined := time.Now()
	isAsked(b, 2)
	_, last := b.stats()
	t.Logf("%v after a peer was seen in the list, it was scraped for the second time", last.Sub(joined).Round(time.Millisecond))

	killed := peerB.kill(t)
	eventually(t, func() error {
		got, err := targets(web)
		if err == nil && strings.Contains(got, b.port) {
			err = fmt.Errorf("the targets are %s", got)
		}
		return err
	}, watcher, prometheus)
	isAsked(a, 8) // b would be scraped as often
	_, last = b.stats()
	if d := last.Sub(killed); d > 15*time.Second {
		t.Errorf("%v after a peer was killed, it was scraped", d)
	} else {
		t.Logf("%v after a peer was killed, it was scraped for the last time", max(0, d).Round(time.Millisecond))
	}
}

const yamlModule = "/usr/lib/python3/dist-packages/yaml/__init__.py"

// Each recipe for a file makes the file that its program reads, with and without peers. Where others parse it
// by a library, so does the test, in Python.
func fileRecipes(t *testing.T, bin string) {
	const (
		yaml    = "import json, sys, yaml; print(json.dumps(yaml.safe_load(open(sys.argv[1]))))"
		ini     = "import configparser, sys; c = configparser.ConfigParser(delimiters=' ', allow_no_value=True); c.read(sys.argv[1]); print({s: dict(c[s]) for s in c.sections()})"
		envoy   = `{"resources": [{"@type": "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment", "cluster_name": "web", "endpoints": [{"lb_endpoints": `
		address = `{"endpoint": {"address": {"socket_address": {"address": `
	)
	known := map[string]struct{ file, reader, none, peers string }{
		"nginx": {"web.servers", "", "server 127.0.0.1:9 down;\n",
			"server 127.0.0.1:9 down;\nserver 192.0.2.1:4000;\nserver [2001:db8::1]:4001;\n"},
		"HAProxy": {"web.cfg", "", "backend web\n",
			"backend web\n  server 192.0.2.1:4000 192.0.2.1:4000\n  server 2001:db8::1:4001 [2001:db8::1]:4001\n"},
		"Prometheus": {"metrics.yml", yaml, "null\n", `[{"targets": ["192.0.2.1:4000"]}, {"targets": ["[2001:db8::1]:4001"]}]` + "\n"},
		"Envoy": {"web.yaml", yaml, envoy + "null}]}]}\n",
			envoy + "[" + address + `"192.0.2.1", "port_value": 4000}}}}, ` + address + `"2001:db8::1", "port_value": 4001}}}}]}]}]}` + "\n"},
		"A hosts file":    {"hosts", "", "127.0.0.1 own\n", "127.0.0.1 own\n192.0.2.1 web\n2001:db8::1 web\n"},
		"MPI and Horovod": {"hosts", "", "", "192.0.2.1 slots=4\n2001:db8::1 slots=4\n"},
		"Ansible": {"web.ini", ini, "{'web': {}}\n",
			"{'web': {'192.0.2.1': 'ansible_port=4000', '2001:db8::1': 'ansible_port=4001'}}\n"},
	}
	names := regexp.MustCompile(`(?m)^\*\*(.+?)\*\*`).FindAllStringSubmatch(recipes(t), -1)
	if len(names) != len(known) {
		t.Errorf("docs/manual.md has the recipes %q, and the test knows %d", names, len(known))
	}
	for _, m := range names {
		t.Run(m[1], func(t *testing.T) {
			want, found := known[m[1]]
			if !found {
				t.Fatal("the test does not know this recipe")
			}
			dir, addr := t.TempDir(), serve(t, bin, "--proxy", "127.0.0.1")
			must(t, os.WriteFile(filepath.Join(dir, "hosts.own"), []byte("127.0.0.1 own\n"), 0o600))
			r, file := readRecipe(t, m[1], addr, dir), filepath.Join(dir, want.file)
			reload := regexp.MustCompile(`--exec '[^']*'`).FindString(r.command)
			watcher := r.start(t, bin, dir, reload, "")
			expectFile := func(want, reader string) {
				t.Helper()
				eventually(t, func() error {
					b, err := os.ReadFile(file)
					got := string(b)
					if err == nil && reader != "" {
						got, _, _ = run(t, python, "-c", reader, file)
					}
					if err == nil && got != want {
						err = fmt.Errorf("the file is\n%s\nwant\n%s", got, want)
					}
					return err
				}, watcher)
			}
			expectFile(want.none, want.reader)
			key := strings.Fields(r.command)[3]
			for _, from := range []string{"192.0.2.1:4000", "[2001:db8::1]:4001"} {
				ask, err := http.NewRequestWithContext(t.Context(), "GET", "http://"+addr+"/ntrk/"+key, nil)
				must(t, err)
				ask.Header.Set("X-Forwarded-For", from)
				reply, err := http.DefaultClient.Do(ask)
				must(t, err)
				must(t, reply.Body.Close())
			}
			expectFile(want.peers, want.reader)
		})
	}
}
