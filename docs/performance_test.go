//go:build linux

package docs_test

import (
	"fmt"
	"os"
	"regexp"
	"strconv"
	"strings"
	"testing"
)

// The picture in docs/performance.md has the numbers of the tables on that page.
func TestPictureOfPerformance(t *testing.T) {
	page, err := os.ReadFile("docs/performance.md")
	if err != nil {
		t.Fatal(err)
	}
	charts := []chart{
		{table: "keep-alive", title: "CPU time for an announce, µs, the connection goes on"},
		{table: "close", title: "CPU time for an announce, µs, a new connection for each"},
		{table: "with 800000 peers", title: "Resident memory for a peer, bytes, while 800,000 peers announce"},
	}
	for i := range charts {
		charts[i].read(string(page))
		if len(charts[i].bars) < 3 {
			t.Fatalf("docs/performance.md has %d rows in the table %q", len(charts[i].bars), charts[i].table)
		}
	}
	checkPicture(t, "performance", func(l look) string { return drawCharts(l, charts) })
}

// A chart shows the first column of numbers of a table.
type chart struct {
	table, title string // table is how its first line begins
	bars         []bar
}

// A bar is a median, and the range of the rounds. Without a range, least and most are 0.
type bar struct {
	name, text          string
	median, least, most float64
}

// names explains the rows. The picture leaves out others, such as ntrack-2, which also runs on the CPU
// of the load.
var names = map[string]string{
	"floor":       "only the system calls",
	"ntrack":      "ntrack",
	"portable":    "ntrack, with goroutines",
	"nethttp":     "ntrack, in net/http",
	"opentracker": "opentracker",
}

func (c *chart) read(page string) {
	_, table, _ := strings.Cut(page, "\n"+c.table+"  ")
	table, _, _ = strings.Cut(table, "\n\n")
	number := `([0-9]+(?:\.[0-9]+)?)`
	row := regexp.MustCompile(`(?m)^(\S+) +(` + number + `(?: \(` + number + `-` + number + `\))?)(?: |$)`)
	for _, m := range row.FindAllStringSubmatch(table, -1) {
		b := bar{name: names[m[1]], text: m[2]}
		for i, value := range []*float64{&b.median, &b.least, &b.most} {
			*value, _ = strconv.ParseFloat(m[3+i], 64) // an empty one is 0
		}
		if b.name != "" {
			c.bars = append(c.bars, b)
		}
	}
}

func drawCharts(l look, charts []chart) string {
	const left, right, rowHeight = 200, 640, 24 // bars are between left and right
	var body strings.Builder
	y := 0
	for _, c := range charts {
		var longest float64
		for _, b := range c.bars {
			longest = max(longest, b.median, b.most)
		}
		at := func(v float64) float64 { return left + v/longest*(right-left) }
		y += 30
		fmt.Fprintf(&body, `<text x="12" y="%d" class="h">%s</text>`+"\n", y, c.title)
		y += 12
		for _, b := range c.bars {
			class := "o"
			if b.name == "ntrack" {
				class = "n"
			}
			fmt.Fprintf(&body, `<text x="%d" y="%d" class="e">%s</text>`, left-10, y+16, b.name)
			fmt.Fprintf(&body, `<path d="M%d %dH%.1fv16H%[1]d" class="%[4]s"/>`, left, y+4, at(b.median), class)
			if b.most > 0 {
				fmt.Fprintf(&body, `<path d="M%.1f %dH%.1f" class="r"/>`, at(b.least), y+12, at(b.most))
			}
			fmt.Fprintf(&body, `<text x="%.1f" y="%d">%s</text>`+"\n", at(max(b.median, b.most))+10, y+16, b.text)
			y += rowHeight
		}
	}
	height := y + 12
	return fmt.Sprintf(`<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 800 %d" width="800" height="%[1]d" role="img" aria-labelledby="title desc">
<title id="title">CPU time and memory of ntrack and other servers</title>
<desc id="desc">Bars for the numbers in the tables of this page. A shorter bar is better. A line through its end goes from the least to the most of all rounds.</desc>
<style>
text{font:13px system-ui,-apple-system,'Segoe UI',Helvetica,Arial,'DejaVu Sans',sans-serif;fill:%s}
.h{font-weight:600}.e{text-anchor:end}.n{fill:%s}.o{fill:%s}.r{stroke:%s;stroke-width:1.5}
</style>
<rect x="1" y="1" width="798" height="%d" rx="8" fill="%s" stroke="%s"/>
%s</svg>
`, height, l.text, l.strong, l.border, l.dim, height-2, l.window, l.border, &body)
}
