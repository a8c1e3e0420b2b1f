//go:build !unix || aix || solaris

package commands

import (
	"errors"
	"io"
	"io/fs"
	"os"
)

// These systems have no such locks. Here a process leaves a classic tracker even if another one still
// announces the same endpoint. Directories that a killed process left behind are never removed,
// because another process may still use them.

func openOwn(string) (*os.File, error) { return nil, errors.ErrUnsupported }

// Go reports no owner of a file here.
func isOwn(fs.FileInfo) bool { return true }

func isRoots(fs.FileInfo) bool { return false }

func giveTo(*os.File, fs.FileInfo) error { return nil }

func closeToOthers(uintptr) {}

func shareByte(*os.File, int64) (others bool, err error) { return false, errors.ErrUnsupported }

func claimByte(*os.File, int64) bool { return true }

func lockDir(string) (*os.File, error) { return nil, errors.ErrUnsupported }

func removeIn(*os.File, string) error { return errors.ErrUnsupported }

// Only the next write fails.
func waitReaderGone(io.Writer) bool { return false }

// Only the next change of the table shows the new size.
func notifyTerminal(chan<- os.Signal) {}

func isContinued(os.Signal) bool { return false }
