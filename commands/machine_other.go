//go:build !darwin

package commands

import "os"

// machine tells this machine from others that share its home directories or were copied from it.
// Copies may have the same name and the same machine-id; they have not started at the same moment.
// Containers have started with their host, but each has a network of its own. So what is announced
// before a restart of the machine cannot be left after it by its id.
func machine() []string {
	name, _ := os.Hostname()
	parts := []string{name}
	for _, file := range []string{"/etc/machine-id", "/etc/hostid", "/proc/sys/kernel/random/boot_id"} {
		text, _ := readSmall(file)
		parts = append(parts, text)
	}
	network, _ := os.Readlink("/proc/self/ns/net")
	return append(parts, network)
}
