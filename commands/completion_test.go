package commands

import (
	"bytes"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
)

// tab returns the lines of the output of completeCommand. The last word is incomplete.
func tab(t *testing.T, words ...string) []string {
	t.Helper()
	var out, errs bytes.Buffer
	code := Main(t.Context(), append([]string{"ntrack", completeCommand}, words...), Streams{In: strings.NewReader(""), Out: &out, Err: &errs})
	if code != 0 || errs.Len() > 0 {
		t.Errorf("ntrack %s %q: exit code %d, %s", completeCommand, words, code, &errs)
	}
	var lines []string
	for line := range strings.Lines(out.String()) {
		lines = append(lines, strings.TrimSuffix(line, "\n"))
	}
	return lines
}

// Each option accepts the values that completion offers for it.
func TestCompletedValues(t *testing.T) {
	tests := map[string]struct {
		line string // the value goes where % is
		code int    // the exit code if the value is accepted
	}{
		"output":     {"list -t localhost:1 lobby --output %", 3},
		"ready":      {"announce -t localhost:1 lobby --port 1 --ready % -- no-such-program", 127},
		"on-lost":    {"announce -t localhost:1 lobby --port 1 --on-lost % -- no-such-program", 127},
		"on-leave":   {"watch -t localhost:1 lobby --port 1 --min 2 --on-leave % -- no-such-program", 3},
		"completion": {"completion %", 0},
		"log-format": {"serve --listen 192.0.2.1:1 --log-format %", 1}, // no address of this machine
		"log-level":  {"serve --listen 192.0.2.1:1 --log-level %", 1},
	}
	for name, values := range wordsOf {
		tt, ok := tests[name]
		before, _, _ := strings.Cut(tt.line, " %")
		if got := tab(t, append(strings.Fields(before), "")...); !ok || !slices.Equal(got[1:], values) {
			t.Errorf("ntrack %s offers %q, want %q", before, got, values)
		}
		for _, value := range append(slices.Clone(values), "x") {
			want := tt.code
			if value == "x" {
				want = 2
			}
			line := strings.Fields("ntrack " + strings.Replace(tt.line, "%", value, 1))
			var out, errs bytes.Buffer
			if code := Main(t.Context(), line, Streams{In: &out, Out: &out, Err: &errs}); code != want {
				t.Errorf("%s: exit code %d, want %d; %s", line, code, want, &errs)
			}
		}
	}
}

// Completion reads all keys of a tracker, but offers at most 1000 of them.
func TestCompletedKeysBound(t *testing.T) {
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		var keys []string
		for i := range 5000 {
			keys = append(keys, fmt.Sprintf(`{"key":"k%d","count":1}`, i))
		}
		fmt.Fprintf(w, `{"tracks":[%s]}`, strings.Join(keys, ","))
	}))
	defer srv.Close()
	if got := tab(t, "list", srv.URL, "k"); len(got) != 1001 {
		t.Errorf("%d lines for 5000 keys, want 1001", len(got))
	}
	if got := tab(t, "list", srv.URL, "k499"); len(got) != 12 || !slices.Contains(got, "k4999") {
		t.Errorf("k499 gets %q", got)
	}
}
