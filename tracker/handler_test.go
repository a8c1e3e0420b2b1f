package tracker_test

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"testing"

	"ntrack/announce"
	"ntrack/tracker"
)

// ask is a whole client over a bare socket, inside the HTTP 0.2 subset: one request line, one
// header, and the length of the reply known by the end of the connection.
func ask(tracker, method, target string) (status, body string, err error) {
	c, err := net.Dial("tcp", tracker)
	if err != nil {
		return "", "", err
	}
	defer c.Close()
	if _, err := fmt.Fprintf(c, "%s %s HTTP/1.0\r\nHost: %s\r\n\r\n", method, target, tracker); err != nil {
		return "", "", err
	}
	reply, err := io.ReadAll(c)
	head, body, _ := strings.Cut(string(reply), "\r\n\r\n")
	status, _, _ = strings.Cut(head, "\r\n")
	return status, body, err
}

func TestRawSocketClient(t *testing.T) {
	srv := httptest.NewServer(tracker.Handler(&tracker.Tracker{}))
	defer srv.Close()
	at := srv.Listener.Addr().String()
	for _, step := range []struct{ method, target, status, body string }{
		{"GET", "/ntrk/lobby?port=4000&format=text", "200 OK", ""},
		{"GET", "/ntrk/lobby?port=4001&format=text", "200 OK", "127.0.0.1:4000\n"},
		{"GET", "/ntrk/lobby?port=0&format=text&numwant=0", "200 OK", ""},
		{"DELETE", "/ntrk/lobby?port=4001", "204 No Content", ""},
		{"GET", "/ntrk/lobby?port=0&format=text", "200 OK", "127.0.0.1:4000\n"},
		{"GET", "/ntrk/lobby?port=x", "400 Bad Request", "port \"x\": 0 to 65535\n"},
	} {
		status, body, err := ask(at, step.method, step.target)
		if err != nil || !strings.HasSuffix(status, step.status) || body != step.body {
			t.Errorf("%s %s: %s, %q, %v; want %s, %q", step.method, step.target, status, body, err, step.status, step.body)
		}
	}
}

// Mounted on a mux with other things, and under StripPrefix, the target is still read as sent.
func TestHandlerMounted(t *testing.T) {
	h := tracker.Handler(&tracker.Tracker{})
	mux := http.NewServeMux()
	mux.Handle("/ntrk/", http.StripPrefix("/ntrk", h))
	mux.Handle("/announce", h)
	srv := httptest.NewServer(mux)
	defer srv.Close()
	if status, _, err := ask(srv.Listener.Addr().String(), "GET", "/ntrk/a%2Fb?port=4000"); err != nil || !strings.HasSuffix(status, "200 OK") {
		t.Fatalf("%s, %v", status, err)
	}
	if _, body, err := ask(srv.Listener.Addr().String(), "GET", "/announce?info_hash=a/b&port=1&compact=1"); err != nil || !strings.Contains(body, "5:peers6:\x7f\x00\x00\x01\x0f\xa0") {
		t.Errorf("%q, %v", body, err)
	}
}

// Who is refused is not told until when he is listed.
func TestRefusedHasNoExpires(t *testing.T) {
	store := tracker.NewMemory()
	store.Limits.MaxPeers = 1
	tr := &tracker.Tracker{Store: store}
	for i, target := range []string{"/ntrk/k?port=1", "/ntrk/k?port=2", "/announce?info_hash=k&port=3"} {
		call := tracker.Call{Method: "GET", Target: []byte(target), Remote: netip.MustParseAddrPort("192.0.2.1:1")}
		resp, body := tr.Answer(t.Context(), &call, nil)
		if (resp.TTL == 0) != (i > 0) {
			t.Errorf("%s: %d, ttl %v, %q", target, resp.Status, resp.TTL, body)
		}
	}
}

func BenchmarkAnswer(b *testing.B) {
	tr := &tracker.Tracker{}
	call := tracker.Call{Method: "GET", Remote: netip.MustParseAddrPort("192.0.2.1:1")}
	target, dst := make([]byte, 0, 512), make([]byte, 0, 8192)
	b.ReportAllocs()
	i := 0
	for b.Loop() {
		call.Target = fmt.Appendf(target, "/announce?info_hash=%%00%%ff%%80%%25%%26&port=%d&compact=1", 1000+i%80)
		tr.Answer(b.Context(), &call, dst)
		i++
	}
}

func BenchmarkReply(b *testing.B) {
	r := announce.Reply{Key: announce.KeyOf([]byte("lobby")), You: netip.MustParseAddrPort("192.0.2.1:1"), Count: 50}
	for i := range 50 {
		r.Peers = append(r.Peers, announce.Peer{Endpoint: netip.AddrPortFrom(netip.MustParseAddr("192.0.2.2"), uint16(1000+i))})
	}
	dst := make([]byte, 0, 8192)
	for name, write := range map[string]func(){
		"compact":    func() { r.AppendBencode(dst, true, false) },
		"dictionary": func() { r.AppendBencode(dst, false, false) },
		"json":       func() { r.AppendJSON(dst) },
		"text":       func() { r.AppendText(dst) },
	} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				write()
			}
		})
	}
}
