package server_test

import (
	"testing"

	"go.uber.org/goleak"
)

// A store that still has peers goes on sweeping until they have lapsed.
func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m, goleak.IgnoreAnyFunction("ntrack/tracker/store/memory.(*Store).sweep"), goleak.IgnoreAnyFunction("ntrack/tracker/store/memory.(*Store).sweep-fm"))
}
