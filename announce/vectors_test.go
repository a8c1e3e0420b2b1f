package announce_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"
	"os"
	"path"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"ntrack/announce"
)

// clientVector is a conversation with a tracker, as testdata/vectors/README.md describes it.
type clientVector struct {
	About, Tracker, Do, Key string
	Port                    uint16
	Want                    int
	Exchanges               []struct {
		Method, Target string
		Headers        map[string]string
		Reply          struct {
			Status  int
			Headers map[string]string
			Body    string
		}
	}
	Result  *clientResult
	Failure string
	Error   bool
}

type clientResult struct {
	You      string   `json:"you"`
	Interval int      `json:"interval"`
	TTL      int      `json:"ttl"`
	Count    int      `json:"count"`
	Peers    []string `json:"peers"`
	Sample   bool     `json:"sample"`
	Warning  string   `json:"warning"`
}

// The client sends and reads what the vectors have.
func TestClientVectors(t *testing.T) {
	files, err := filepath.Glob("../testdata/vectors/client/*.json")
	if err != nil || len(files) == 0 {
		t.Fatalf("no vectors: %v", err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".json"), func(t *testing.T) {
			data, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			var v clientVector
			d := json.NewDecoder(bytes.NewReader(data))
			d.DisallowUnknownFields()
			if err := d.Decode(&v); err != nil {
				t.Fatal(err)
			}
			t.Log(v.About)
			v.play(t)
		})
	}
}

func (v *clientVector) play(t *testing.T) {
	asked := 0
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if asked == len(v.Exchanges) {
			t.Errorf("unexpected request: %s %s", r.Method, r.RequestURI)
			return
		}
		x := v.Exchanges[asked]
		asked++
		if ok, err := path.Match(slashless(x.Target), slashless(r.RequestURI)); err != nil || !ok || r.Method != x.Method {
			t.Errorf("request %d is %s %s\nwant           %s %s", asked, r.Method, r.RequestURI, x.Method, x.Target)
		}
		for name, want := range x.Headers {
			if got := r.Header.Get(name); got != want {
				t.Errorf("request %d: %s: %q, want %q", asked, name, got, want)
			}
		}
		for name, value := range x.Reply.Headers {
			w.Header().Set(name, value)
		}
		w.WriteHeader(x.Reply.Status)
		_, _ = w.Write(latin1(x.Reply.Body))
	}))
	defer srv.Close()
	at := named(t, strings.Replace(v.Tracker, "HOST", srv.Listener.Addr().String(), 1))
	k, err := announce.ParseKey(v.Key)
	if err != nil && v.Do != "index" {
		t.Fatal(err)
	}
	var c announce.Client
	defer c.Close()
	var reply *announce.Reply
	request := announce.Request{Key: k, Port: v.Port, Want: v.Want}
	switch v.Do {
	case "announce":
		reply, err = c.Announce(t.Context(), at, request)
	case "list":
		reply, err = c.List(t.Context(), at, announce.Request{Key: k, Want: v.Want})
	case "leave":
		err = c.Leave(t.Context(), at, request)
	case "watch":
		reply, err = beginWatch(t, &c, at, request)
	default:
		t.Fatalf("do %q", v.Do)
	}
	if asked != len(v.Exchanges) {
		t.Errorf("%d requests, want %d", asked, len(v.Exchanges))
	}
	f, refused := errors.AsType[*announce.RefusalError](err)
	switch {
	case v.Failure != "":
		if !refused || f.Reason != v.Failure {
			t.Errorf("error %v, want the failure %q", err, v.Failure)
		}
		return
	case v.Error:
		if err == nil || refused {
			t.Errorf("error %v, want one that is not a refusal", err)
		}
		return
	case err != nil:
		t.Fatal(err)
	case v.Result == nil:
		return
	}
	got := &clientResult{Interval: int(reply.Interval.Seconds()), TTL: int(reply.TTL.Seconds()), Count: reply.Count,
		Peers: strings.Fields(endpoints(reply)), Sample: reply.Sample, Warning: reply.Warning}
	if reply.You.IsValid() {
		got.You = reply.You.String()
	}
	if d := cmp.Diff(v.Result, got); d != "" {
		t.Errorf("want (-), got (+):\n%s", d)
	}
}

// beginWatch returns the peers and the own endpoints of the first event of a watch, as a reply.
func beginWatch(t *testing.T, c *announce.Client, at announce.Tracker, request announce.Request) (*announce.Reply, error) {
	for ev, err := range c.Watch(t.Context(), []announce.Tracker{at}, request) {
		if err != nil {
			return nil, err
		}
		reply := &announce.Reply{Count: len(ev.Peers) + len(ev.You), Peers: ev.Peers}
		if ev.Reply != nil {
			reply.Interval, reply.TTL, reply.Count = ev.Reply.Interval, ev.Reply.TTL, ev.Reply.Count
		}
		if len(ev.You) > 0 {
			reply.You = ev.You[0]
		}
		return reply, nil
	}
	return nil, errors.New("a watch without an event")
}

// slashless replaces slashes and question marks, so that * in path.Match matches any text.
func slashless(s string) string { return strings.NewReplacer("/", "|", "?", "!").Replace(s) }

// latin1 returns the bytes that the characters U+0000 to U+00FF of s stand for.
func latin1(s string) []byte {
	var b []byte
	for _, r := range s {
		b = append(b, byte(r))
	}
	return b
}
