//go:build linux

package interop_test

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

// The completion scripts are tested in the shells themselves: each shell runs in a terminal, and the
// test types.

// A shell runs in a tmux terminal.
type shell struct {
	t      *testing.T
	socket string
	marks  int
}

// startShell runs a shell in dir, with ntrack in its PATH, and types the lines of prepare.
func startShell(t *testing.T, bin, dir, tracker, command string, prepare ...string) *shell {
	t.Helper()
	sock, err := os.MkdirTemp("", "tmux") // the name of t.TempDir is too long for a socket
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

// types types text, and then presses the named keys.
func (s *shell) types(text string, keys ...string) {
	s.t.Helper()
	_, err := s.tmux("send-keys", "-l", "--", text)
	must(s.t, err)
	for _, key := range keys {
		_, err := s.tmux("send-keys", key)
		must(s.t, err)
	}
}

// waitFor waits until ok accepts the lines on the screen. The cursor is on the last one.
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
			s.t.Fatalf("waited %[2]v for %[1]s; the screen shows\n%[3]s", what, patience, strings.TrimSpace(out))
		}
	}
}

// completes types the beginning of a line, Tab and a #. It waits until the screen shows the whole
// line, and then deletes it.
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

// prints types the beginning of a command, Tab and Enter, until the command prints line. It needs
// more than one try on a busy machine, where the tracker may answer too late for a Tab.
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

// hostileKeys are keys that would run commands or expand if a completion script did not quote them.
var hostileKeys = []string{
	"h0 $(touch pwned)", "h1`touch pwned`", "h2;touch pwned", "h3 | touch pwned", "h4&touch pwned", "h5>pwned", "h6'x\"y", "h7!!x!$",
	"h8*?[a-z]{a,b}", "h9$HOME${HOME}", `ha\n\`, "hb~root", "hc(touch pwned)", "hd<(touch pwned)", "he#x", "hf%s%F{red}", "hg:x:y", "hh=y",
	"hi--x", "hj☕ é", "hk^x", "hl  x ", "hm'$(touch pwned)'", `hn"$(touch pwned)"`, "chat/room 1", "~root", "#x", "=ls", "!x",
}

// completion returns the test that all shells have in common.
func completion(command string, prepare ...string) func(*testing.T, string) {
	return func(t *testing.T, bin string) {
		// No peer lapses before a slow machine has completed every key.
		tracker := serve(t, bin, "--index", "--interval", "10m")
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
			"ntrack announce lobby --on-lost k":           "ntrack announce lobby --on-lost k", // ambiguous: keep or kill
			"ntrack announce lobby --on-lost ki":          "ntrack announce lobby --on-lost kill ",
			"ntrack completion f":                         "ntrack completion fish ",
			"ntrack list jfi":                             "ntrack list jfi", // a KEY is not a file
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
		// A list of these keys runs no command either.
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
		// A Tab neither waits for an absent tracker nor prints an error.
		s.types("export NTRACK_TRACKER=127.0.0.1:1", "Enter")
		s.clear()
		s.completes("ntrack list ch", "ntrack list ch")
	}
}

const bashPackage = "/usr/share/bash-completion/bash_completion"

// The shells load the scripts as the manual shows.
var (
	bashCompletion = completion("bash --norc --noprofile -i", "PS1='> '", "bind 'set bell-style none'", "source <(ntrack completion bash)")
	// The package bash-completion completes the arguments of a COMMAND, too.
	bashCompletionPackage = completion("bash --norc --noprofile -i", "PS1='> '", "bind 'set bell-style none'",
		". "+bashPackage, "source <(ntrack completion bash)")
	zshCompletion = completion("zsh -f -i", "PS1='> '", "unsetopt beep", "autoload -U compinit && compinit -u -d $HOME/dump",
		"source <(ntrack completion zsh)")
	// Distributions install the script as a file in fpath.
	zshCompletionFile = completion("zsh -f -i", "PS1='> '", "unsetopt beep", "ntrack completion zsh > $HOME/_ntrack",
		"fpath=($HOME $fpath)", "autoload -U compinit && compinit -u -d $HOME/dump")
	fishCompletion = completion("fish --no-config -i", "function fish_prompt; echo '> '; end", "set -g fish_autosuggestion_enabled 0",
		"function fish_greeting; end", "ntrack completion fish | source")
)
