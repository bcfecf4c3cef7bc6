//go:build race

package wire

// poison overwrites what was given back, in builds with the race detector, so that a reader who kept a slice too long reads rubbish at
// once and not one day.
func poison(b []byte) {
	for i := range b {
		b[i] = 0xDB
	}
}
