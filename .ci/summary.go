// Summary reads the output of `go test -json`. It prints the time of each package and the output of
// each test that failed or was skipped. Its last line is "N passed, N failed, N skipped". It fails if
// no test passed, or any failed or was skipped.
package main

import (
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"strings"
)

type event struct {
	Action, Package, Test, ImportPath, Output, FailedBuild string
	Elapsed                                                float64
}

func main() {
	failed := flag.Int("failed", 0, "the number of failed checks")
	flag.Parse()
	var passed, skipped int
	output := map[[2]string]*strings.Builder{} // by package and test
	running := map[[2]string]bool{}            // tests that have begun
	culprits := map[string]bool{}              // packages with a failed test of their own
	show := func(what string, e event) {
		fmt.Printf("--- %s %s %s\n", what, e.Package, e.Test)
		if b := output[[2]string{e.Package, e.Test}]; b != nil {
			fmt.Println(b)
		}
	}
	d := json.NewDecoder(os.Stdin)
	for {
		var e event
		if err := d.Decode(&e); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			fmt.Println("go test -json:", err)
			*failed++
			break
		}
		switch e.Action {
		case "run":
			running[[2]string{e.Package, e.Test}] = true
		case "pass", "skip", "fail":
			delete(running, [2]string{e.Package, e.Test})
		}
		switch e.Action {
		case "build-output":
			fmt.Print(e.Output)
		case "output":
			k := [2]string{e.Package, e.Test}
			if output[k] == nil {
				output[k] = new(strings.Builder)
			}
			output[k].WriteString(e.Output)
		case "pass":
			if e.Test == "" {
				fmt.Printf("ok  %s  %.1f s\n", e.Package, e.Elapsed)
			} else {
				passed++
			}
		case "skip":
			if e.Test != "" { // a package without tests is skipped as a whole
				skipped++
				show("SKIP", e)
			}
		case "fail":
			if e.Test != "" || !culprits[e.Package] { // a package that does not build fails without a test
				*failed++
			}
			culprits[e.Package] = true
			show("FAIL", e)
			if e.Test == "" { // if the process died, show the tests that were running
				for k := range running {
					if k[0] == e.Package {
						show("DIED", event{Package: k[0], Test: k[1]})
					}
				}
			}
		}
	}
	fmt.Printf("%d passed, %d failed, %d skipped\n", passed, *failed, skipped)
	if passed == 0 || *failed > 0 || skipped > 0 {
		os.Exit(1)
	}
}
