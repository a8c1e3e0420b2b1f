//go:build unix

package docs_test

import (
	"context"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"ntrack/commands/commandstest"
)

// The test types the blocks marked console into a shell, from the first to the last of a page, and
// compares what they print.
func TestPageConsole(t *testing.T) {
	ntrack, count := buildNtrack(t), 0
	for _, name := range pages {
		list := blocks(page(t, name), "console")
		count += len(list)
		if len(list) > 0 {
			t.Run(filepath.Base(name), func(t *testing.T) {
				t.Parallel()
				term := newTerminal(t, ntrack)
				if name == "README.md" { // its reader leaves the first two commands running: a tracker, and this
					_, peer, _ := strings.Cut(blocks(page(t, name), "sh")[0], "\ngo run . ")
					term.start("ntrack " + peer)
				}
				for _, block := range list {
					for command := range strings.SplitSeq(strings.TrimPrefix(block, "$ "), "\n$ ") {
						term.play(command)
					}
				}
			})
		}
	}
	if count == 0 {
		t.Error("found no blocks of console")
	}
}

// A shell can parse the blocks marked sh. The test runs those of ntrack, too, with the tracker in place
// of those that the page names. They join, watch or serve without an error, until the test ends them.
func TestPageShell(t *testing.T) {
	// Other tests run programs without ntrack, completion, commands after -- and recipes for files. These need
	// more than this machine has, or write to its system.
	skip := regexp.MustCompile(`curl |go run|go test|#!|<\(|ntrack man|my-service|train\.py|mpirun|--to `)
	ntrack, parsed, played := buildNtrack(t), 0, 0
	for _, name := range pages {
		for _, block := range blocks(page(t, name), "sh") {
			parsed++
			shell := "sh"
			if strings.Contains(block, "<(") {
				shell = "bash" // and zsh
			}
			cmd := exec.Command(shell, "-n")
			cmd.Stdin = strings.NewReader(block)
			if out, err := cmd.CombinedOutput(); err != nil {
				t.Errorf("%s: %s -n: %v\n%s\n%s", name, shell, err, out, block)
				continue
			}
			if skip.MatchString(block) {
				continue
			}
			// A command ends where the next line begins at the margin.
			commands := regexp.MustCompile(`(?m)^\S.*(\n(\t|done).*)*`).FindAllString(block, -1)
			played += len(commands)
			t.Run(filepath.Base(name), func(t *testing.T) {
				t.Parallel()
				term := newTerminal(t, ntrack)
				term.start("ntrack announce lobby --port 4002 --stay")
				for _, command := range commands {
					term.start(command)
				}
			})
		}
	}
	if played < 8 {
		t.Errorf("parsed %d blocks of sh, and played only %d commands", parsed, played)
	}
}

func buildNtrack(t *testing.T) (program string) {
	t.Helper()
	program = filepath.Join(t.TempDir(), "ntrack")
	if out, err := exec.Command("go", "build", "-o", program, ".").CombinedOutput(); err != nil {
		t.Fatalf("go build: %v\n%s", err, out)
	}
	return program
}

// A terminal runs commands in a directory of its own, which has a certificate. It has a tracker on a free port, in place of
// localhost:6969 and of every tracker.example.
type terminal struct {
	t           *testing.T
	ctx         context.Context
	dir, ntrack string
	port        string
}

func newTerminal(t *testing.T, ntrack string) *terminal {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	t.Cleanup(cancel)
	term := &terminal{t: t, ctx: ctx, dir: t.TempDir(), ntrack: ntrack}
	cert, key, err := commandstest.Certificate(time.Now().Add(-time.Hour), time.Now().Add(24*time.Hour))
	for name, text := range map[string][]byte{"fullchain.pem": cert, "privkey.pem": key} {
		if err = errors.Join(err, os.WriteFile(filepath.Join(term.dir, name), text, 0o600)); err != nil {
			t.Fatal(err)
		}
	}
	first := term.start("ntrack serve --listen 127.0.0.1:0 --index")
	m := regexp.MustCompile(`http://127\.0\.0\.1:(\d+)/`).FindStringSubmatch(first)
	if m == nil {
		t.Fatalf("ntrack serve prints %q", first)
	}
	term.port = m[1]
	return term
}

func (term *terminal) command(line string) *exec.Cmd {
	if term.port != "" {
		tracker := "localhost:" + term.port
		line = strings.NewReplacer("serve ", "serve --listen 127.0.0.1:0 ", "--listen :6969", "", "--listen-tls :443", "--listen-tls 127.0.0.1:0",
			"--dns 192.0.2.1:53", "--dns 127.0.0.1:0",
			"https://tracker.example", "http://"+tracker, "tracker.example:6969", tracker,
			"one.example", tracker, "two.example", "127.0.0.1:"+term.port, "tracker.example", tracker,
			":6969", ":"+term.port).Replace(line)
	}
	cmd := exec.CommandContext(term.ctx, "sh", "-c", line)
	cmd.Dir = term.dir
	cmd.Env = append(os.Environ(), "NTRACK_TRACKER=localhost:"+term.port, "XDG_STATE_HOME="+term.dir,
		"PATH="+filepath.Dir(term.ntrack)+":"+os.Getenv("PATH"))
	return cmd
}

// play runs the first line of a transcript, which has to print the others.
func (term *terminal) play(transcript string) {
	term.t.Helper()
	line, want, _ := strings.Cut(transcript, "\n")
	if program, _, _ := strings.Cut(line, " "); program == "curl" {
		if _, err := exec.LookPath(program); err != nil {
			if os.Getenv("NTRACK_INTEROP") != "" {
				term.t.Errorf("$ %s: %v", line, err)
			}
			term.t.Logf("not played: %s: %v", line, err)
			return
		}
	}
	out, err := term.command(line).CombinedOutput()
	if err != nil {
		term.t.Errorf("$ %s: %v", line, err)
	}
	got := strings.ReplaceAll(string(out), ":"+term.port, ":6969")
	if got != want && got != want+"\n" {
		term.t.Errorf("$ %s\n%s\nthe page has\n%s", line, got, want)
	}
}

// start starts a command, waits until it prints something or ends, and returns what it prints. When the
// test ends, start ends the command. Only serve may print notes, and has to.
func (term *terminal) start(line string) (first string) {
	term.t.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		term.t.Fatal(err)
	}
	cmd := term.command(line)
	cmd.Stdout, cmd.Stderr = w, w
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	err = cmd.Start()
	_ = w.Close()
	if err != nil {
		term.t.Fatal(err)
	}
	buf := make([]byte, 4096)
	n, _ := r.Read(buf)
	term.t.Cleanup(func() {
		_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGTERM)
		rest, _ := io.ReadAll(r)
		_ = r.Close()
		_ = cmd.Wait()
		out := string(buf[:n]) + string(rest)
		if term.ctx.Err() != nil {
			term.t.Errorf("$ %s\n%s\nis still at it after a minute", line, out)
		}
		serves := strings.Contains(line, "ntrack serve")
		begun := strings.Contains(out, "ntrack: tracker at ") || strings.Contains(out, "ntrack: open: ")
		if serves != begun || !serves && strings.Contains(out, "ntrack: ") {
			term.t.Errorf("$ %s\n%s", line, out)
		}
	})
	return string(buf[:n])
}
