package main

import (
	"path/filepath"
	"testing"

	"github.com/conveyor-etl/conveyor/integration/overlay"
)

// To run all of them takes long. That each finds its place in the code is looked at whenever that changes.
func TestMutants_EachFindsItsPlaceInTheCode(t *testing.T) {
	root, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range mutants {
		if _, err := overlay.Write(root, t.TempDir(), append([]overlay.Edit{m.Edit}, m.besides...)...); err != nil {
			t.Errorf("%s: %v", m.name, err)
		}
	}
}
