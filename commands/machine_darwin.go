package commands

import (
	"os"
	"syscall"
)

// machine tells this machine from others that share its home directories or were copied from it. A
// Mac takes its name from the network that it is in, which is no use here.
func machine() []string {
	id, err := syscall.Sysctl("kern.bootsessionuuid")
	if err != nil {
		id, _ = os.Hostname()
	}
	return []string{id}
}
