//go:build !unix

package commands

import "os"

// notifyTerminal is for Unix; elsewhere the next change finds out.
func notifyTerminal(chan<- os.Signal) {}

func isContinued(os.Signal) bool { return false }
