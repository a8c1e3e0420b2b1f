// Package page has a page for people who visit a tracker with a browser. It shows who is listed under a
// key, live, and how to join. It is a client like any other: it only looks, and does nothing that the
// protocol does not offer to everybody.
//
// A tracker serves it as its [ntrack/tracker.Tracker.Page]. The package is one of its own, so that other
// programs with a tracker do not get these files.
package page

import (
	"embed"
	"io/fs"
)

//go:embed files
var files embed.FS

// Files returns the files of the page: index.html and what it refers to.
func Files() fs.FS {
	sub, err := fs.Sub(files, "files")
	if err != nil {
		panic(err) // files is a directory, or this would not compile
	}
	return sub
}
