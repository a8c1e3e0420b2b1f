//go:build linux

package main_test

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// What the shells do with their completion scripts is seen where they run: in a terminal, with
// somebody who types.

// A shell runs in a terminal of tmux.
type shell struct {
	t      *testing.T
	socket string
	marks  int
}

// startShell runs a shell in dir, with ntrack in its PATH, and prepares it.
func startShell(t *testing.T, bin, dir, tracker, command string, prepare ...string) *shell {
	t.Helper()
	sock, err := os.MkdirTemp("", "tmux") // t.TempDir is too long a name for a socket
	must(t, err)
	s := &shell{t: t, socket: filepath.Join(sock, "s")}
	t.Cleanup(func() {
		_, _ = s.tmux("kill-server")
		_ = os.RemoveAll(sock)
	})
	home := t.TempDir()
	_, err = s.tmux("-f", "/dev/null", "new-session", "-d", "-x", "150", "-y", "50", "-c", dir,
		"exec env -i PATH="+filepath.Dir(bin)+":$PATH HOME="+home+" XDG_CONFIG_HOME="+home+" TMPDIR="+home+
			" TERM=screen LC_ALL=C.UTF-8 NTRACK_TRACKER="+tracker+" "+command)
	must(t, err)
	for _, line := range prepare {
		s.types(line, "Enter")
	}
	s.clear()
	return s
}

func (s *shell) tmux(args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	out, err := exec.CommandContext(ctx, "tmux", append([]string{"-S", s.socket}, args...)...).CombinedOutput()
	if err != nil {
		err = fmt.Errorf("tmux %q: %w\n%s", args, err, out)
	}
	return string(out), err
}

// types types text, and then keys by their names.
func (s *shell) types(text string, keys ...string) {
	s.t.Helper()
	_, err := s.tmux("send-keys", "-l", "--", text)
	must(s.t, err)
	for _, key := range keys {
		_, err := s.tmux("send-keys", key)
		must(s.t, err)
	}
}

// waitFor waits until the lines on the screen are like that. The last one has the cursor.
func (s *shell) waitFor(what string, ok func(lines []string) bool) {
	s.t.Helper()
	for deadline := time.Now().Add(patience); ; time.Sleep(50 * time.Millisecond) {
		out, err := s.tmux("capture-pane", "-p")
		must(s.t, err)
		var lines []string
		for line := range strings.Lines(strings.TrimRight(out, "\n ")) {
			lines = append(lines, strings.TrimRight(line, "\n "))
		}
		if len(lines) > 0 && ok(lines) {
			return
		}
		if time.Now().After(deadline) {
			s.t.Fatalf("waiting for %s, and after %v on the screen there is\n%s", what, patience, strings.TrimSpace(out))
		}
	}
}

// completes types the beginning of a line, Tab and a #, waits until the whole line stands there, and
// takes it away again.
func (s *shell) completes(begun, whole string) {
	s.t.Helper()
	s.types(begun, "Tab", "#")
	s.waitFor(begun+" to become "+whole, func(lines []string) bool { return slices.Contains(lines, "> "+whole+"#") })
	s.types("", "C-u")
	s.clear()
}

func (s *shell) clear() {
	s.t.Helper()
	s.marks++
	mark := fmt.Sprintf("clear %d", s.marks)
	s.types("clear; echo "+mark, "Enter")
	s.waitFor("a clear screen", func(lines []string) bool { return slices.Equal(lines, []string{mark, ">"}) })
}

// prints types the beginning of a command, Tab and Enter, until the command prints that line: on a
// busy machine the tracker may not answer within the time that a Tab may take.
func (s *shell) prints(begun, line string) {
	s.t.Helper()
	for deadline := time.Now().Add(patience); ; {
		s.clear()
		s.marks++
		mark := fmt.Sprintf("printed %d", s.marks)
		s.types(begun, "Tab")
		s.types("; echo "+mark, "Enter")
		var last []string
		s.waitFor(begun+" to end", func(lines []string) bool {
			last = lines
			return len(lines) > 2 && slices.Equal(lines[len(lines)-2:], []string{mark, ">"})
		})
		if last[len(last)-3] == line {
			return
		}
		if time.Now().After(deadline) {
			s.t.Fatalf("%s does not print %s:\n%s", begun, line, strings.Join(last, "\n"))
		}
	}
}

// What others may choose for a key, and what would happen if a shell took it for more than that.
var hostileKeys = []string{
	"h0 $(touch pwned)", "h1`touch pwned`", "h2;touch pwned", "h3 | touch pwned", "h4&touch pwned", "h5>pwned", "h6'x\"y", "h7!!x!$",
	"h8*?[a-z]{a,b}", "h9$HOME${HOME}", `ha\n\`, "hb~root", "hc(touch pwned)", "hd<(touch pwned)", "he#x", "hf%s%F{red}", "hg:x:y", "hh=y",
	"hi--x", "hj☕ é", "hk^x", "hl  x ", "hm'$(touch pwned)'", `hn"$(touch pwned)"`, "chat/room 1", "~root", "#x", "=ls", "!x",
}

// completion is the part that all shells have in common.
func completion(command string, prepare ...string) func(*testing.T, string) {
	return func(t *testing.T, bin string) {
		tracker := serve(t, bin, "--index")
		for i, key := range hostileKeys {
			_, stderr, code := run(t, bin, "announce", "-t", tracker, "--port", fmt.Sprint(5000+i), "--", key)
			if code != 0 {
				t.Fatalf("key %q: %s", key, stderr)
			}
		}
		dir := t.TempDir()
		for _, name := range []string{"jfile", "ufile", "kfile", "ffile", "lfile", "file name"} {
			must(t, os.WriteFile(filepath.Join(dir, name), nil, 0o600))
		}
		must(t, os.WriteFile(filepath.Join(filepath.Dir(bin), "zzcommand"), []byte("#!/bin/sh\n"), 0o700))
		s := startShell(t, bin, dir, tracker, command, prepare...)
		for begun, whole := range map[string]string{
			"ntrack an":                                   "ntrack announce ",
			"ntrack help wat":                             "ntrack help watch ",
			"ntrack announce lobby --po":                  "ntrack announce lobby --port ",
			"ntrack list -o j":                            "ntrack list -o json ",
			"ntrack list --output ta":                     "ntrack list --output table ",
			"ntrack list --output=j":                      "ntrack list --output=json ",
			"ntrack list -o":                              "ntrack list -o ",
			"ntrack announce lobby --ready u":             "ntrack announce lobby --ready udp ",
			"ntrack announce lobby --on-lost k":           "ntrack announce lobby --on-lost k", // keep or kill
			"ntrack announce lobby --on-lost ki":          "ntrack announce lobby --on-lost kill ",
			"ntrack completion f":                         "ntrack completion fish ",
			"ntrack list jfi":                             "ntrack list jfi", // a KEY is no file
			"ntrack list --timeout jfi":                   "ntrack list --timeout jfi",
			"ntrack serve lfi":                            "ntrack serve lfi",
			"ntrack list --key-file jfi":                  "ntrack list --key-file jfile ",
			"ntrack announce lobby --port 1 -- zzcom":     "ntrack announce lobby --port 1 -- zzcommand ",
			"ntrack announce k --port 1 -- zzcommand jfi": "ntrack announce k --port 1 -- zzcommand jfile ",
			"ntrack announce " + tracker + " x --po":      "ntrack announce " + tracker + " x --port ",
		} {
			s.completes(begun, whole)
		}
		for i, key := range hostileKeys {
			begun := key[:2]
			if strings.ContainsAny(begun, "~#=!") {
				begun = `\` + key[:1]
			}
			s.prints("ntrack list -q -t "+tracker+" "+begun, fmt.Sprintf("127.0.0.1:%d", 5000+i))
		}
		room := fmt.Sprintf("127.0.0.1:%d", 5000+slices.Index(hostileKeys, "chat/room 1"))
		s.prints("ntrack list -q "+tracker+" ch", room)
		s.prints("ntrack list -q ch", room)
		s.prints(`ntrack list -q chat/room\ `, room)
		// Shown as a list they do nothing, either.
		s.clear()
		s.types("ntrack list -q h", "Tab")
		asked := time.Now()
		s.waitFor("a list of keys", func(lines []string) bool {
			if time.Since(asked) > 3*time.Second {
				s.types("", "Tab")
				asked = time.Now()
			}
			return strings.Contains(strings.Join(lines, " "), "hi--x")
		})
		s.types("", "C-u")
		s.clear()
		if _, err := os.Stat(filepath.Join(dir, "pwned")); err == nil {
			t.Error("a key has run a command")
		}
		// A tracker that is away, or takes its time, is not waited for, and says nothing.
		s.types("export NTRACK_TRACKER=127.0.0.1:1", "Enter")
		s.clear()
		s.completes("ntrack list ch", "ntrack list ch")
	}
}

const bashPackage = "/usr/share/bash-completion/bash_completion"

// The scripts are loaded as the README says.
var (
	bashCompletion = completion("bash --norc --noprofile -i", "PS1='> '", "bind 'set bell-style none'", "source <(ntrack completion bash)")
	// With the package of that name, which completes the arguments of a COMMAND, too.
	bashCompletionPackage = completion("bash --norc --noprofile -i", "PS1='> '", "bind 'set bell-style none'",
		". "+bashPackage, "source <(ntrack completion bash)")
	zshCompletion = completion("zsh -f -i", "PS1='> '", "unsetopt beep", "autoload -U compinit && compinit -u -d $HOME/dump",
		"source <(ntrack completion zsh)")
	// As a file of fpath, where distributions put it.
	zshCompletionFile = completion("zsh -f -i", "PS1='> '", "unsetopt beep", "ntrack completion zsh > $HOME/_ntrack",
		"fpath=($HOME $fpath)", "autoload -U compinit && compinit -u -d $HOME/dump")
	fishCompletion = completion("fish --no-config -i", "function fish_prompt; echo '> '; end", "set -g fish_autosuggestion_enabled 0",
		"function fish_greeting; end", "ntrack completion fish | source")
)
