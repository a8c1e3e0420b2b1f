//go:build linux

package docs_test

import (
	"fmt"
	"math"
	"os"
	"regexp"
	"strconv"
	"strings"
	"testing"
)

// The picture of the attacks in docs/reliability.md has the numbers of the tables on that page.
func TestPictureOfAttacks(t *testing.T) {
	page, err := os.ReadFile("docs/reliability.md")
	if err != nil {
		t.Fatal(err)
	}
	rows := readAttacks(string(page))
	if len(rows) < 10 {
		t.Fatalf("docs/reliability.md has %d attacks: %v", len(rows), rows)
	}
	checkPicture(t, "attack", func(l look) string { return drawAttacks(l, rows) })
}

// An attackRow is one attack: what honest clients saw of each server, in the order of attacked.
type attackRow struct {
	title string
	seen  [3]string // how long the slowest hundredth of renewals took, in ms; empty if it does not apply
	share [3]string // of the renewals that were answered
}

// attacked has the servers, as the tables and the picture name them.
var attacked = [3][2]string{{"ntrack", "ntrack"}, {"nethttp", "ntrack, in net/http"}, {"opentracker", "opentracker"}}

// readAttacks reads the tables of a page, in the order of the first one.
func readAttacks(page string) (rows []attackRow) {
	_, text, _ := strings.Cut(page, "<!-- attack: begin -->")
	text, _, _ = strings.Cut(text, "<!-- attack: end -->")
	for i, server := range attacked {
		_, table, _ := strings.Cut(text, "\n"+server[0]+"  ")
		table, _, _ = strings.Cut(table, "\n\n")
		for _, m := range regexp.MustCompile(`(?m)^(\S.*?)  +([0-9.]+%) +\S+ +([0-9.]+) `).FindAllStringSubmatch(table, -1) {
			at := 0
			for at < len(rows) && rows[at].title != m[1] {
				at++
			}
			if at == len(rows) {
				rows = append(rows, attackRow{title: m[1]})
			}
			rows[at].share[i], rows[at].seen[i] = m[2], m[3]
		}
	}
	return rows
}

// drawAttacks draws a bar for each server under each attack, on a logarithmic scale.
func drawAttacks(l look, rows []attackRow) string {
	const left, right, barHeight, least, most = 230, 660, 11, 0.5, 10_000
	at := func(ms float64) float64 {
		return left + (right-left)*math.Log(min(max(ms, least), most)/least)/math.Log(most/least)
	}
	classes := [3]string{"n", "o", "p"}
	var body strings.Builder
	x := 12
	for i, server := range attacked {
		fmt.Fprintf(&body, `<path d="M%d 16h12v9h-12" class="%s"/><text x="%d" y="25">%s</text>`+"\n", x, classes[i], x+18, server[1])
		x += 45 + 7*len(server[1])
	}
	body.WriteString(`<text x="788" y="25" class="e">ms until 99 of 100 renewals are answered</text>` + "\n")
	y := 58
	top := y
	for _, row := range rows {
		bars := 0
		for i, seen := range row.seen {
			if seen == "" {
				continue
			}
			ms, _ := strconv.ParseFloat(seen, 64)
			text := seen
			if row.share[i] != "100%" {
				text += ", " + row.share[i] + " answered"
			}
			fmt.Fprintf(&body, `<path d="M%d %dH%.0fv9H%[1]d" class="%[4]s"/><text x="%.0[3]f" y="%[5]d" dx="5" class="v">%[6]s</text>`+"\n",
				left, y+bars*barHeight, at(ms), classes[i], y+bars*barHeight+9, text)
			bars++
		}
		fmt.Fprintf(&body, `<text x="%d" y="%d" class="e">%s</text>`+"\n", left-10, y+bars*barHeight/2+4, row.title)
		y += bars*barHeight + 8
	}
	var grid strings.Builder
	for _, ms := range []int{1, 10, 50, 1000, 10_000} {
		class, unit := "g", ""
		if ms == 50 {
			class, unit = "r", " ms"
		}
		x := at(float64(ms))
		fmt.Fprintf(&grid, `<path d="M%.0f %dV%d" class="%s"/><text x="%.0f" y="%d" class="m">%d%s</text>`+"\n", x, top-4, y, class, x, top-9, ms, unit)
	}
	height := y + 12
	return fmt.Sprintf(`<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 800 %d" width="800" height="%[1]d" role="img" aria-labelledby="title desc">
<title id="title">What honest clients notice of each attack</title>
<desc id="desc">Bars for the numbers in the tables of this page: the time in which 99 of 100 renewals are answered, in milliseconds. A shorter bar is better. The scale is logarithmic, and the line at 50 ms is the goal.</desc>
<style>
text{font:13px system-ui,-apple-system,'Segoe UI',Helvetica,Arial,'DejaVu Sans',sans-serif;fill:%s}
.e{text-anchor:end}.v{font-size:10px}.m{font-size:11px;text-anchor:middle;fill:%[5]s}
.n{fill:%[3]s}.o{fill:%[4]s}.p{fill:%[5]s}.g{stroke:%[4]s}.r{stroke:%[3]s}
</style>
<rect x="1" y="1" width="798" height="%[6]d" rx="8" fill="%[7]s" stroke="%[4]s"/>
%[8]s%[9]s</svg>
`, height, l.text, l.strong, l.border, l.dim, height-2, l.window, &grid, &body)
}
