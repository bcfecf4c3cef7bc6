// Package demo is the pipeline that shows newcomers what there is to see.
package demo

import (
	_ "embed" // the manifests
	"fmt"
	"strconv"
	"strings"

	"github.com/conveyor-etl/conveyor/dsl"
)

//go:embed demo.yaml
var manifests string

// Pipeline is the name of the demo pipeline.
const Pipeline = "demo"

// Manifests are those of the demo, which writes to the file at path.
func Manifests(path string) ([]*dsl.Resource, error) {
	resources, diags := dsl.Parse("demo.yaml", []byte(strings.ReplaceAll(manifests, "$OUTPUT", strconv.Quote(path))))
	if err := dsl.Err(diags); err != nil {
		return nil, fmt.Errorf("read the demo: %w", err)
	}
	return resources, nil
}
