package announce

// isNoRoute is false: Plan 9 has text in place of error numbers.
func isNoRoute(error) bool { return false }
