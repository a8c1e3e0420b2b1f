package tracker

import (
	"math/rand/v2"
	"net/http"
	"testing"
	"time"
)

func TestAppendDate(t *testing.T) {
	for range 100_000 {
		when := time.Unix(rand.Int64N(1<<37), 0).UTC() // to the year 6325
		if got, want := string(appendDate(nil, when)), when.Format(http.TimeFormat); got != want {
			t.Fatalf("%s, not %s", got, want)
		}
	}
}
