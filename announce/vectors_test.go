package announce_test

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"errors"
	"iter"
	"mime"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"ntrack/announce"
)

// clientVector is a conversation with a tracker, as testdata/vectors/README.md describes it.
type clientVector struct {
	About, Tracker, Do, Key string
	Port                    uint16
	Want                    int
	Label                   string
	Labels                  bool
	Exchanges               []struct {
		Method, Target string
		Stream         bool
		Reply          struct {
			Status  int
			Headers map[string]string
			Body    string
		}
	}
	Result  *clientResult
	Failure string
	Retry   int
	Error   bool
}

type clientResult struct {
	You      string                    `json:"you"`
	Interval int                       `json:"interval"`
	TTL      int                       `json:"ttl"`
	Count    int                       `json:"count"`
	Peers    []string                  `json:"peers"`
	Sample   bool                      `json:"sample"`
	Warning  string                    `json:"warning"`
	Labels   map[netip.AddrPort]string `json:"labels"`
}

// The client sends and reads what the vectors have.
func TestClientVectors(t *testing.T) {
	files, err := filepath.Glob("../testdata/vectors/client/*.json")
	if err != nil || len(files) == 0 {
		t.Fatalf("no vectors: %v", err)
	}
	for _, file := range files {
		if strings.HasPrefix(filepath.Base(file), "watch-") {
			continue // TestClientScenarios plays these
		}
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
		if r.Method != x.Method || !sameTarget(r.RequestURI, x.Target) || wantsStream(r) != x.Stream {
			t.Errorf("request %d is %s %s, for a stream %v\nwant           %s %s, %v", asked, r.Method, r.RequestURI, wantsStream(r), x.Method, x.Target, x.Stream)
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
	request := announce.Request{Key: k, Port: v.Port, Want: v.Want, Labels: v.Labels}
	if v.Label != "" {
		if request.ID, err = announce.ParseLabel(v.Label); err != nil {
			t.Fatal(err)
		}
	}
	switch v.Do {
	case "announce":
		reply, err = c.Announce(t.Context(), at, request)
	case "list":
		reply, err = c.List(t.Context(), at, announce.Request{Key: k, Want: v.Want, Labels: v.Labels})
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
		if !refused || f.Reason != v.Failure || f.Retry != time.Duration(v.Retry)*time.Second {
			t.Errorf("error %+v, want the failure %q and a wait of %d s", err, v.Failure, v.Retry)
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
		Peers: strings.Fields(endpoints(reply)), Sample: reply.Sample, Warning: reply.Warning, Labels: reply.Labels}
	if reply.You.IsValid() {
		got.You = reply.You.String()
	}
	if d := cmp.Diff(v.Result, got, cmpopts.EquateComparable(netip.AddrPort{})); d != "" {
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

// free are the parameters that a client may add to every request, as testdata/vectors/README.md says.
var free = []string{"age", "compact", "format", "key", "no_peer_id", "numwant", "peer_id"}

// sameTarget reports whether a request has the target that a vector demands: the same path, and the
// same parameters in any order.
func sameTarget(got, want string) bool {
	gotPath, gotQuery, _ := strings.Cut(got, "?")
	wantPath, wantQuery, _ := strings.Cut(want, "?")
	unescaped, err := url.PathUnescape(gotPath)
	if path, _ := url.PathUnescape(wantPath); err != nil || unescaped != path {
		return false
	}
	wanted, seen := make(map[string]string), make(map[string]bool)
	for name, value := range parameters(wantQuery) {
		wanted[name] = value
	}
	for name, value := range parameters(gotQuery) {
		want, ok := wanted[name]
		switch {
		case seen[name]:
			return false // nobody needs a parameter twice
		case want == "*":
			ok = name != "peer_id" || len(value) == 20
		case ok:
			ok = value == want
		default:
			ok = slices.Contains(free, name)
		}
		if seen[name] = true; !ok {
			return false
		}
		delete(wanted, name)
	}
	return len(wanted) == 0
}

// parameters iterates over the names and the decoded values of a query. A peer id may be in hexadecimal
// digits.
func parameters(query string) iter.Seq2[string, string] {
	return func(yield func(string, string) bool) {
		for part := range strings.SplitSeq(query, "&") {
			name, escaped, _ := strings.Cut(part, "=")
			value, err := url.PathUnescape(escaped)
			if err != nil {
				value = escaped
			}
			if raw, err := hex.DecodeString(value); err == nil && name == "peer_id" && len(raw) == 20 {
				value = string(raw)
			}
			if part != "" && !yield(name, value) {
				return
			}
		}
	}
}

// A target is the one that a vector demands in whatever way a client writes it.
func TestSameTarget(t *testing.T) {
	const id = "peer_id=ABCDEFGHIJKLMNOPQRS%2f"
	for _, c := range []struct {
		got, want string
		same      bool
	}{
		{"/ntrk/a%2Fb?port=1&numwant=7&format=json", "/ntrk/a%2fb?port=1", true},
		{"/ntrk/a/%62?port=1", "/ntrk/a%2fb?port=1", true},
		{"/ntrk/a?peer_id=414243444546474849" + "4a4b4c4d4e4f505152532f", "/ntrk/a?" + id, true},
		{"/announce?key=0&" + id + "&info_hash=%c1A", "/announce?info_hash=%C1%41&peer_id=*&key=*", true},
		{"/ntrk/b?port=1", "/ntrk/a?port=1", false},
		{"/ntrk/a", "/ntrk/a?port=1", false},
		{"/ntrk/a?port=2", "/ntrk/a?port=1", false},
		{"/ntrk/a?port=1&port=1", "/ntrk/a?port=1", false},
		{"/ntrk/a?port=1&event=started", "/ntrk/a?port=1", false},
		{"/ntrk/a?numwant=7", "/ntrk/a?numwant=8", false},
		{"/announce?key=0", "/announce?key=*&peer_id=*", false},
		{"/announce?peer_id=A", "/announce?peer_id=*", false},
	} {
		if sameTarget(c.got, c.want) != c.same {
			t.Errorf("%s is the target %s: %v, want %v", c.got, c.want, !c.same, c.same)
		}
	}
}

// wantsStream reports whether Accept prefers an event stream to every other form of a reply.
func wantsStream(r *http.Request) bool {
	best, bestQ := "", 0.0
	for part := range strings.SplitSeq(r.Header.Get("Accept"), ",") {
		media, params, err := mime.ParseMediaType(part)
		q := 1.0
		if params["q"] != "" {
			q, err = strconv.ParseFloat(params["q"], 64)
		}
		if err == nil && q > bestQ {
			best, bestQ = media, q
		}
	}
	return best == "text/event-stream"
}

// latin1 returns the bytes that the characters U+0000 to U+00FF of s stand for.
func latin1(s string) []byte {
	var b []byte
	for _, r := range s {
		b = append(b, byte(r))
	}
	return b
}
