//go:build race

package proc

// Raced reports whether everything runs with the race detector, which makes it several times slower.
const Raced = true

var raceFlags = []string{"-race"}
