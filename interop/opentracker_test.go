//go:build linux

package interop_test

import (
	"crypto/sha1"
	"encoding/hex"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// nobody is the user id of Debian's user without any rights.
const nobody = 65534

// opentracker uses the tracker that most public BitTorrent trackers run. It has its own ways: its
// answer to a leave has no peers, it lists the asker among the peers, and it accepts only the
// 20-byte keys on its operator's list.
func opentracker(t *testing.T, bin string) {
	torrent := sha1.Sum([]byte("some torrent"))
	text := "lobby, version 2 ☺" // on a foreign tracker, SHA-1("ntrack:" + KEY)
	hashed := sha1.Sum([]byte("ntrack:" + text))
	port := startOpentracker(t, torrent, hashed)
	for _, tt := range []struct {
		name, key string
		hash      [20]byte
	}{
		{"info hash", "urn:btih:" + hex.EncodeToString(torrent[:]), torrent},
		{"text key", text, hashed},
	} {
		t.Run(tt.name, func(t *testing.T) { opentrackerKey(t, bin, port, tt.key, tt.hash) })
	}
	t.Run("refusal", func(t *testing.T) {
		const reason = "Requested download is not authorized for use with this tracker."
		stdout, stderr, code := run(t, bin, "announce", "http://127.0.0.1:"+port+"/announce", "not listed", "--port", "4001")
		if stdout != "" || code != 4 || !strings.Contains(stderr, reason) {
			t.Errorf("exit code %d, stdout %q, stderr %q; want 4, nothing, and %q", code, stdout, stderr, reason)
		}
	})
}

func opentrackerKey(t *testing.T, bin, port, key string, hash [20]byte) {
	tracker := "http://127.0.0.1:" + port + "/announce"
	announce := func(port string, flags ...string) []string {
		return append([]string{"announce", tracker, key, "--port", port, "-q"}, flags...)
	}
	list := []string{"list", tracker, key, "-q"}
	expect(t, nil, bin, list...)
	expect(t, nil, bin, announce("4001")...)
	expect(t, endpoints("4001"), bin, announce("4002")...)
	expect(t, endpoints("4001"), bin, announce("4002")...) // a renewal
	expect(t, endpoints("4001", "4002"), bin, list...)
	expect(t, endpoints("4001", "4002"), bin, list...)
	counted(t, port, hash, 2) // each look has left again

	watch := start(t, t.TempDir(), bin, "watch", tracker, key, "--every", "100ms")
	lines := "join 127.0.0.1:4001\njoin 127.0.0.1:4002\n"
	watch.prints(t, lines)
	expect(t, endpoints("4001", "4002"), bin, announce("4003")...)
	lines += "join 127.0.0.1:4003\n"
	watch.prints(t, lines)
	expect(t, nil, bin, announce("4001", "--leave")...)
	lines += "leave 127.0.0.1:4001\n"
	watch.prints(t, lines)
	must(t, watch.cmd.Process.Signal(syscall.SIGINT))
	<-watch.done

	expect(t, endpoints("4002", "4003"), bin, list...)
	counted(t, port, hash, 2)
	expect(t, nil, bin, announce("4002", "--leave")...)
	expect(t, nil, bin, announce("4003", "--leave")...)
	expect(t, nil, bin, list...)
	counted(t, port, hash, 0)
}

// counted waits until the tracker itself counts n peers. Unlike its list of peers, the count includes
// peers that ntrack would not show.
func counted(t *testing.T, port string, hash [20]byte, n int) {
	t.Helper()
	want := fmt.Sprintf("d5:filesd20:%sd8:completei0e10:downloadedi0e10:incompletei%deeee", hash, n)
	eventually(t, func() error {
		resp, err := http.Get("http://127.0.0.1:" + port + "/scrape?info_hash=" + url.QueryEscape(string(hash[:])))
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		body, err := io.ReadAll(resp.Body)
		if err == nil && string(body) != want {
			err = fmt.Errorf("scraped %q, want %q", body, want)
		}
		return err
	})
}

// startOpentracker runs Debian's build of opentracker for these keys, and returns its port.
func startOpentracker(t *testing.T, keys ...[20]byte) (port string) {
	t.Helper()
	name := filepath.Join(t.TempDir(), "keys")
	var lines strings.Builder
	for _, k := range keys {
		fmt.Fprintf(&lines, "%x\n", k)
	}
	must(t, os.WriteFile(name, []byte(lines.String()), 0o644))
	file, err := os.Open(name)
	must(t, err)
	defer file.Close()
	port = freePort(t)
	// It inherits the list as an open file, because it may not read the test's directory.
	cmd := exec.Command("opentracker", "-i", "127.0.0.1", "-p", port, "-w", "/dev/fd/3")
	cmd.ExtraFiles = []*os.File{file}
	if os.Getuid() == 0 {
		// As root it would change its root directory, and then not find the list.
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: nobody, Gid: nobody}}
	}
	p := startCmd(t, "/", cmd)
	eventually(t, func() error {
		resp, err := http.Get("http://127.0.0.1:" + port + "/scrape")
		if err == nil {
			err = resp.Body.Close()
		}
		return err
	}, p)
	return port
}
