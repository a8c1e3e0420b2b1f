package servertest

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"ntrack/tracker"
)

// Each rule fails once in these tests, because a runner that finds no fault would be of no use.

func TestMatch(t *testing.T) {
	for _, c := range []struct {
		body, got string
		ok        bool
	}{
		{`""`, "", true},
		{`""`, "x", false},
		{`"abc"`, "abc", true},
		{`"abc"`, "abcd", false},
		{`"abc"`, "ab", false},
		{`"\u00ff\u0000"`, "\xff\x00", true},
		{`"\u00ff"`, "\u00ff", false}, // two bytes
		{`["a", "b"]`, "ab", true},
		{`["[", {"pick": 2, "of": ["a", "b", "c"], "sep": ","}, "]"]`, "[c,a]", true},
		{`["[", {"pick": 2, "of": ["a", "b", "c"], "sep": ","}, "]"]`, "[a,a]", false},
		{`["[", {"pick": 2, "of": ["a", "b", "c"], "sep": ","}, "]"]`, "[a]", false},
		{`["[", {"pick": 2, "of": ["a", "b", "c"], "sep": ","}, "]"]`, "[ab]", false},
		{`["[", {"pick": 2, "of": ["a", "b", "c"], "sep": ","}, "]"]`, "[a,b,c]", false},
		{`["[", {"pick": 2, "of": ["a", "b", "c"], "sep": ","}, "]"]`, "[a,d]", false},
		{`[{"pick": 2, "of": ["a", "ab"]}, "c"]`, "abac", true}, // "ab" matches before "a"
		{`["port ", {"any": true}, "\n"]`, "port 7: no\n", true},
		{`["port ", {"any": true}, "\n"]`, "port \n", false},
		{`["port ", {"any": true}, "\n"]`, "port 7\nport 8\n", false},
		{`["id ", {"as": "e"}, "-0\nid ", {"as": "e"}, "-1\n"]`, "id a-b-0\nid a-b-1\n", true},
		{`["id ", {"as": "e"}, "-0\nid ", {"as": "e"}, "-1\n"]`, "id a-0\nid b-1\n", false},
		{`[{"as": "e"}, "-", {"as": "e"}]`, "a-b-a-b", true}, // "e" could be "a", but only "a-b" matches
		{`[{"pick": 2, "of": [{"text": "p{n}", "repeat": [1, 11]}], "sep": " "}]`, "p11 p1", true},
		{`[{"pick": 2, "of": [{"text": "p{n}", "repeat": [1, 11]}], "sep": " "}]`, "p1 p11", true},
		{`[{"pick": 2, "of": [{"text": "p{n}", "repeat": [1, 11]}], "sep": " "}]`, "p1 p1", false},
		{`[{"pick": 2, "of": [{"text": "p{n}", "repeat": [1, 11]}], "sep": " "}]`, "p1 p12", false},
		{`[{"pick": 2, "of": ["a", "a"]}]`, "aa", true},
		{`[{"number": [1, 60]}, "e"]`, "60e", true},
		{`[{"number": [1, 60]}, "e"]`, "61e", false},
		{`[{"number": [1, 60]}, "e"]`, "0e", false},
		{`[{"number": [1, 60]}, "e"]`, "07e", false},
		{`[{"number": [1, 60]}, "e"]`, "e", false},
		{`[{"number": [1, 60]}, "e"]`, "+7e", false},
		{`["a", {"either": ["", ["b", {"any": true}]]}, "c"]`, "ac", true},
		{`["a", {"either": ["", ["b", {"any": true}]]}, "c"]`, "abxc", true},
		{`["a", {"either": ["", ["b", {"any": true}]]}, "c"]`, "axc", false},
		{`[{"either": ["a", "ab"]}, "c"]`, "abc", true},
		{`[{"either": [[{"as": "e"}, "x"], "y"]}, {"as": "e"}]`, "yz", true}, // "e" is free in the second
	} {
		var b body
		if err := b.UnmarshalJSON([]byte(c.body)); err != nil {
			t.Errorf("%s: %v", c.body, err)
			continue
		}
		if ok, _ := b.match(c.got, make(map[string]string)); ok != c.ok {
			t.Errorf("%s matches %q: got %v, expected %v", c.body, c.got, ok, c.ok)
		}
	}
}

func TestParseIsStrict(t *testing.T) {
	const step = `{"from": "192.0.2.1:1", "send": "GET / HTTP/1.0\r\n\r\n", "status": 200`
	for _, c := range []struct{ scenario, want string }{
		{`{"about": "x", "steps": [` + step + `}]}`, ""},
		{`{"about": "x", "steps": []}`, "no steps"},
		{`{"steps": [` + step + `}]}`, "about"},
		{`{"about": "x", "steps": [` + step + `, "header": {}}]}`, "unknown field"},
		{`{"about": "x", "tracker": {"index": true, "tokens": "x"}, "steps": [` + step + `}]}`, "unknown field"},
		{`{"about": "x", "steps": [` + step + `, "body": ["a", {"pick": 1, "from": ["a"]}]}]}`, "unknown field"},
		{`{"about": "x", "steps": [` + step + `, "body": [{"pick": 2, "of": ["a"]}]}]}`, "cannot pick"},
		{`{"about": "x", "steps": [` + step + `, "body": [{"any": true, "of": ["a"]}]}]}`, "stands alone"},
		{`{"about": "x", "steps": [` + step + `, "body": "\u0100"}]}`, "not a byte"},
		{`{"about": "x", "steps": [` + step + `, "reuse": true}]}`, "reuse"},
		{`{"about": "x", "steps": [` + step + `, "at": 5}, ` + step + `, "at": 4}]}`, "previous step"},
		{`{"about": "x", "steps": [{"from": "192.0.2.1:1", "send": "x"}]}`, "status"},
		{`{"about": "x", "steps": [` + step + `, "body": [{"pick": 1, "of": [{"text": "p", "repeat": [1, 2]}]}]}]}`, "needs {n} once"},
		{`{"about": "x", "steps": [` + step + `, "body": [{"pick": 1, "of": [{"text": "{n}", "repeat": [2, 1]}]}]}]}`, "from 2 to 1"},
		{`{"about": "x", "steps": [` + step + `, "body": [{"number": [1, 2], "either": [""]}]}]}`, "stands alone"},
		{`{"about": "x", "steps": [` + step + `, "body": [{}]}]}`, "stands alone"},
		{`{"about": "x", "steps": [` + step + `, "headers": {"Expires": []}}]}`, "no value"},
		{`{"about": "x", "steps": [` + step + `, "repeat": [1, 2]}]}`, "needs {n} once"},
		{`{"about": "x", "steps": [` + step + `, "repeat": [1, 2], "stream": "a", "body": ""}]}`, "a repeated step"},
		{`{"about": "x", "steps": [{"from": "192.0.2.1", "send": "x", "status": 200}]}`, "port"},
		{`{"about": "x", "steps": [` + step + `}]} {}`, "follows"},
		{`{"about": "x", "steps": [` + step + `, "body": [{"as": "a", "any": true}]}]}`, "stands alone"},
		{`{"about": "x", "steps": [` + step + `, "body": "", "stream": "a"}, {"stream": "a", "body": ""}]}`, ""},
		{`{"about": "x", "steps": [` + step + `, "stream": "a"}]}`, "body"},
		{`{"about": "x", "steps": [` + step + `, "body": "", "stream": "a"}, {"stream": "a"}]}`, "body"},
		{`{"about": "x", "steps": [` + step + `, "body": "", "stream": "a"}, {"stream": "b", "body": ""}]}`, "no stream"},
		{`{"about": "x", "steps": [` + step + `, "body": "", "stream": "a"}, {"stream": "a", "hang_up": true}, {"stream": "a", "body": ""}]}`, "no stream"},
		{`{"about": "x", "steps": [` + step + `, "body": "", "stream": "a"}, {"stream": "a", "status": 200, "body": ""}]}`, "may only have"},
		{`{"about": "x", "steps": [` + step + `, "body": "", "stream": "a"}, ` + step + `, "body": "", "stream": "a"}]}`, "of its own"},
		{`{"about": "x", "steps": [` + step + `, "hang_up": true}]}`, "hang_up"},
	} {
		_, err := parse([]byte(c.scenario))
		switch {
		case c.want == "" && err != nil:
			t.Errorf("%s: %v", c.scenario, err)
		case c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)):
			t.Errorf("%s\n     got %v\nexpected an error with %q", c.scenario, err, c.want)
		}
	}
}

func TestPlay(t *testing.T) {
	mux := http.NewServeMux()
	mux.HandleFunc("/remote", func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, r.RemoteAddr) })
	mux.HandleFunc("/expires", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Date", "Sat, 01 Jan 2000 00:00:00 GMT")
		w.Header().Set("Expires", "Sat, 01 Jan 2000 00:02:30 GMT")
	})
	mux.HandleFunc("/chunked", func(w http.ResponseWriter, r *http.Request) {
		w.(http.Flusher).Flush()
		io.WriteString(w, "x")
	})
	stream := func(chunks bool) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			if !chunks {
				w.Header().Set("Transfer-Encoding", "identity")
			}
			for i := 0; ; i++ {
				fmt.Fprintf(w, "e-%d ", i)
				w.(http.Flusher).Flush()
				select {
				case <-r.Context().Done():
					return
				case <-time.After(10 * time.Second):
				}
				if i == 3 {
					return
				}
			}
		}
	}
	mux.HandleFunc("/stream", stream(false))
	mux.HandleFunc("/chunks", stream(true))
	mux.HandleFunc("/empty", func(w http.ResponseWriter, r *http.Request) {
		c, _, _ := w.(http.Hijacker).Hijack() // net/http would send no length
		io.WriteString(c, "HTTP/1.1 204 No Content\r\nContent-Length: 0\r\n\r\n")
		c.Close()
	})
	mux.HandleFunc("/closing", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Connection", "close")
		io.WriteString(w, r.URL.RawQuery)
	})
	mux.HandleFunc("/query", func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, r.URL.RawQuery) })
	mux.HandleFunc("/hang", func(w http.ResponseWriter, r *http.Request) { <-r.Context().Done() })
	serve := func(l net.Listener, _ *tracker.Tracker) { (&http.Server{Handler: mux}).Serve(l) }

	get := func(path, rest string) string {
		return `{"from": "192.0.2.1:7", "send": "GET ` + path + ` HTTP/1.1\r\nHost: h\r\n\r\n", "status": 200` + rest + `}`
	}
	for _, c := range []struct{ steps, want string }{
		{get("/remote", `, "body": "192.0.2.1:7"`), ""},
		{get("/remote", `, "body": "192.0.2.1:8"`), "agree for 10 bytes"},
		{get("/remote", "") + "," + get("/nowhere", ""), `step 2, "GET /nowhere HTTP/1.1" from 192.0.2.1:7: status`},
		{get("/remote", "") + "," + get("/remote", `, "at": 900, "reuse": true, "body": "192.0.2.1:7"`), ""},
		{get("/remote", `, "headers": {"content-length": "11", "Expires": null}`), ""},
		{get("/remote", `, "headers": {"Content-Length": "12"}`), "header Content-Length"},
		{get("/remote", `, "headers": {"Content-Length": null}`), "expected none"},
		{get("/expires", `, "headers": {"Expires": "Date+150"}`), ""},
		{get("/expires", `, "headers": {"Expires": "Date+151"}`), "header Expires"},
		{get("/chunked", ""), "chunks"},
		{`{"from": "192.0.2.1:7", "send": "GET /empty HTTP/1.0\r\n\r\n", "status": 204}`, "status 204 has"},
		{get("/hang", ""), "no reply"},
		{get("/hang", `, "half_close": true`), ""}, // net/http sees the end
		{get("/query?{n}", `, "repeat": [1, 3], "body": [{"number": [1, 3]}]`), ""},
		{get("/query?{n}", `, "repeat": [1, 3], "body": [{"number": [1, 2]}]`), `"GET /query?3`},
		{get("/closing?{n}", `, "repeat": [1, 3], "body": [{"number": [1, 3]}]`), ""},
		{get("/query?a", `, "in_pieces": true, "body": "a"`), ""},
		{get("/query?a", `, "half_close": true, "body": "a"`), ""},
		{get("/remote", `, "headers": {"Content-Length": [{"number": [10, 12]}]}`), ""},
		{get("/remote", `, "headers": {"Content-Length": [{"number": [12, 13]}]}`), "header Content-Length"},
		{get("/remote", `, "closed": true`), "still open"},
		{get("/stream", `, "stream": "a", "body": "e-0 "`), ""},
		{get("/stream", `, "stream": "a", "body": "e-1 "`), "agree for 2 bytes"},
		{get("/stream", `, "stream": "a", "body": "e-0 ", "headers": {"Expires": ""}`), "header Expires"},
		{get("/stream", `, "stream": "a", "body": "e-0 ", "closed": true`), "expected true"},
		{get("/remote", `, "stream": "a", "body": "192.0.2.1:7"`), "needs Connection: close"},
		{get("/chunks", `, "stream": "a", "body": "e-0 "`), "needs Connection: close"},
		{get("/nowhere", `, "stream": "a", "body": ""`), "got 404"},
		{get("/stream", `, "stream": "a", "body": [{"as": "x"}, "-0 "]`) + `,{"at": 11, "stream": "a", "body": [{"as": "x"}, "-1 "]}`, ""},
		{get("/stream", `, "stream": "a", "body": [{"as": "x"}, "-0 "]`) + `,{"at": 11, "stream": "a", "body": ["-", {"as": "x"}]}`, `step 2, stream "a"`},
		{get("/stream", `, "stream": "a", "body": "e-0 "`) + `,{"at": 21, "stream": "a", "body": "e-1 e-2 "},{"at": 41, "stream": "a", "body": "e-3 ", "closed": true}`, ""},
		{get("/stream", `, "stream": "a", "body": "e-0 "`) + `,{"at": 41, "stream": "a", "body": "e-1 e-2 e-3 "}`, "expected false"},
		{get("/stream", `, "stream": "a", "body": "e-0 "`) + `,{"at": 11, "stream": "a", "body": ""}`, "got"},
		{get("/stream", `, "stream": "a", "body": "e-0 "`) + `,{"at": 11, "stream": "a", "hang_up": true},` + get("/stream", `, "stream": "a", "body": "e-0 "`), ""},
		{get("/stream", `, "stream": "a", "body": "e-0 "`) + `,{"stream": "a", "half_close": true},{"at": 1, "stream": "a", "body": "", "closed": true}`, ""},
		{get("/stream", `, "stream": "a", "body": "e-0 "`) + `,{"stream": "a", "half_close": true},{"at": 1, "stream": "a", "body": ""}`, "expected false"},
		{get("/stream", `, "stream": "a", "body": "e-0 "`) + `,{"at": 11, "stream": "a", "half_close": true},{"at": 12, "stream": "a", "body": "e-1 ", "closed": true}`, ""},
		{`{"from": "192.0.2.1:7", "send": "GET /remote HTTP/1.0\r\n\r\n", "status": 200, "closed": true}`, ""},
		{`{"from": "192.0.2.1:7", "send": "GET /remote HTTP/1.0\r\n\r\n", "status": 200},` + get("/remote", `, "reuse": true`), "no reply"},
	} {
		s, err := parse([]byte(`{"about": "x", "steps": [` + c.steps + `]}`))
		if err != nil {
			t.Fatalf("%s: %v", c.steps, err)
		}
		synctest.Test(t, func(t *testing.T) {
			err := s.play(serve)
			switch {
			case c.want == "" && err != nil:
				t.Errorf("%s: %v", c.steps, err)
			case c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)):
				t.Errorf("%s\n     got %v\nexpected an error with %q", c.steps, err, c.want)
			}
		})
	}
}

// If a server returns before its listener is closed, the scenario fails and does not hang.
func TestPlayDeadServer(t *testing.T) {
	s, err := parse([]byte(`{"about": "x", "steps": [{"from": "192.0.2.1:1", "send": "x", "status": 200}]}`))
	if err != nil {
		t.Fatal(err)
	}
	synctest.Test(t, func(t *testing.T) {
		if err := s.play(func(net.Listener, *tracker.Tracker) {}); !errors.Is(err, net.ErrClosed) {
			t.Errorf("got %v", err)
		}
	})
}

// All published scenarios follow the format.
func TestPublishedScenariosParse(t *testing.T) {
	files, err := filepath.Glob("../../../testdata/vectors/tracker/*.json")
	if err != nil || len(files) == 0 {
		t.Fatalf("found %d scenarios, %v", len(files), err)
	}
	for _, file := range files {
		if _, err := load(file); err != nil {
			t.Error(err)
		}
		if info, err := os.Stat(file); err == nil && info.Size() > 64<<10 {
			t.Errorf("%s has %d bytes: too much to read", file, info.Size())
		}
	}
}
