//go:build unix

package server_test

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"

	"ntrack/tracker"
	"ntrack/tracker/server"
)

// serveFewFiles runs a server in a process of its own, which may have 64 files open. It prints the
// address and the log of the server. It returns when its standard input ends.
func serveFewFiles(goroutines bool) error {
	if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &syscall.Rlimit{Cur: 64, Max: 64}); err != nil {
		return err
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	fmt.Println(l.Addr())
	if goroutines {
		l = notTCP{l}
	}
	s := &server.Server{Tracker: &tracker.Tracker{}, Log: server.LogTo(func(line string) { fmt.Println(line) })}
	go s.Serve(l)
	_, err = io.Copy(io.Discard, os.Stdin)
	return err
}

// If few files may be open, the server admits few connections, but replies to any request on them,
// even if other connections use all other files. Those get a 503, and the server logs one line.
func TestFewFiles(t *testing.T) {
	if mode := os.Getenv("NTRACK_TEST_FILES"); mode != "" {
		if err := serveFewFiles(mode == "goroutine"); err != nil {
			t.Fatal(err)
		}
		os.Exit(0)
	}
	for _, mode := range []string{"worker", "goroutine"} {
		t.Run(mode, func(t *testing.T) { testFewFiles(t, mode) })
	}
}

func testFewFiles(t *testing.T, mode string) {
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), self, "-test.run=^TestFewFiles$")
	cmd.Env = append(os.Environ(), "NTRACK_TEST_FILES="+mode)
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewReader(stdout)
	addr, err := lines.ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	addr = strings.TrimSpace(addr)

	var kept []net.Conn
	var readers []*bufio.Reader
	for range 4 {
		c := dial(t, addr)
		kept, readers = append(kept, c), append(readers, bufio.NewReader(c))
		get(t, c, readers[len(readers)-1], "/ntrk/k?port=1")
	}
	const silent, room = 80, 32 - 4
	refused := make(chan string, silent)
	for range silent {
		c := dial(t, addr)
		go func() {
			b, _ := io.ReadAll(c)
			refused <- string(b)
		}()
	}
	for range silent - room { // the others are admitted, and have ten seconds to send a request
		if b := <-refused; !strings.HasPrefix(b, "HTTP/1.1 503 ") {
			t.Errorf("one connection too many got %q", b)
		}
	}
	for i, c := range kept {
		if _, err := io.WriteString(c, "POST /ntrk/k?port=2 HTTP/1.1\r\nHost: t\r\nContent-Length: 1\r\n\r\nx"); err != nil {
			t.Fatal(err)
		}
		resp, err := http.ReadResponse(readers[i], nil)
		if err != nil || resp.StatusCode != 200 {
			t.Fatalf("POST on connection %d: %+v, %v", i, resp, err)
		}
		if _, err := io.Copy(io.Discard, resp.Body); err != nil {
			t.Fatal(err)
		}
	}
	_ = stdin.Close()
	log, err := io.ReadAll(lines)
	if err != nil {
		t.Fatal(err)
	}
	if n := strings.Count(string(log), "\n"); n != 1 || !strings.Contains(string(log), "32 are open") || !strings.Contains(string(log), "64 files") {
		t.Errorf("logged %q", log)
	}
	if err := cmd.Wait(); err != nil {
		t.Error(err)
	}
}
