//go:build race

package proc

import "time"

// Raced reports whether everything runs with the race detector, which makes it several times slower.
const Raced = true

// patience is how long anything may take that should be quick: a generous bound against hanging, never a measure.
const patience = 4 * time.Minute

var raceFlags = []string{"-race"}
