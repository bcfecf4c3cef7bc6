package repo_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/conveyor-etl/conveyor/dsl"
	"github.com/conveyor-etl/conveyor/dsl/expr"
)

// TestExamples_AreValidManifests takes each folder with manifests by itself: an example may have the same ones in two variants.
func TestExamples_AreValidManifests(t *testing.T) {
	folders := map[string]bool{}
	examples := filepath.Join(root(t), "examples")
	err := filepath.WalkDir(examples, func(path string, _ os.DirEntry, err error) error {
		if filepath.Ext(path) == ".yaml" {
			folders[filepath.Dir(path)] = true
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(folders) == 0 {
		t.Fatal("there are no examples")
	}
	for folder := range folders {
		name, err := filepath.Rel(examples, folder)
		if err != nil {
			t.Fatal(err)
		}
		t.Run(name, func(t *testing.T) {
			set, diags := dsl.Load([]string{folder})
			diags = append(diags, dsl.Validate(set, dsl.Options{CheckExpr: expr.Check})...)
			if dsl.HasErrors(diags) {
				var text strings.Builder
				if err := dsl.Render(&text, diags, set.Source, false); err != nil {
					t.Fatal(err)
				}
				t.Error(text.String())
			}
		})
	}
}
