//go:build unix

package commands_test

import (
	"os"
	"testing"
	"time"

	"ntrack/commands/commandstest"
)

func TestMain(m *testing.M) {
	if os.Getenv("NTRACK_TEST_MEMBER") != "" { // TestMemberProcess needs no programs, and building them takes time
		os.Exit(m.Run())
	}
	commandstest.Main(m, nil)
}

// patience bounds every wait of the tests that run ntrack as a program.
const patience = 30 * time.Second
