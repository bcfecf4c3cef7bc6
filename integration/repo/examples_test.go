package repo_test

import (
	"path/filepath"
	"strings"
	"testing"

	"github.com/conveyor-etl/conveyor/dsl"
	"github.com/conveyor-etl/conveyor/dsl/expr"
)

func TestExamples_AreValidManifests(t *testing.T) {
	folders, err := filepath.Glob(filepath.Join(root(t), "examples", "*"))
	if err != nil {
		t.Fatal(err)
	}
	if len(folders) == 0 {
		t.Fatal("there are no examples")
	}
	for _, folder := range folders {
		t.Run(filepath.Base(folder), func(t *testing.T) {
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
