package cli

import (
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/conveyor-etl/conveyor/dsl"
)

const kindSidecar = "Sidecar"

// kindInfo is one kind of object under the names that users type.
type kindInfo struct {
	kind  string
	names []string // the first is the plural
}

var kinds = []kindInfo{
	{dsl.KindPipeline, []string{"pipelines", "pipeline", "pl"}},
	{dsl.KindSource, []string{"sources", "source", "src"}},
	{dsl.KindTransform, []string{"transforms", "transform", "tf"}},
	{dsl.KindSink, []string{"sinks", "sink", "sk"}},
	{kindSidecar, []string{"sidecars", "sidecar", "sc"}},
}

// kindOf finds a kind by any of its names.
func kindOf(cmd *cobra.Command, name string) (string, error) {
	lower := strings.ToLower(name)
	for _, k := range kinds {
		if slices.Contains(k.names, lower) {
			return k.kind, nil
		}
	}
	err := usage(cmd, "there is no type %q", name)
	err.fix = "the types are " + strings.Join(plurals(), ", ")
	for _, k := range kinds {
		for _, n := range k.names {
			if len(n) > 2 && near(lower, n) {
				err.fix = "did you mean " + n + "? " + "The types are " + strings.Join(plurals(), ", ")
				return "", err
			}
		}
	}
	return "", err
}

func plurals() []string {
	var out []string
	for _, k := range kinds {
		out = append(out, k.names[0])
	}
	return out
}

// near reports whether the words differ in at most two letters.
func near(a, b string) bool {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := 1; i <= len(a); i++ {
		diagonal := row[0]
		row[0] = i
		for j := 1; j <= len(b); j++ {
			cost := diagonal
			if a[i-1] != b[j-1] {
				cost++
			}
			diagonal = row[j]
			row[j] = min(cost, row[j]+1, row[j-1]+1)
		}
	}
	return row[len(b)] <= 2
}

// target is what the arguments of get, describe and delete name: objects of a kind; no names means all.
type target struct {
	kind  string
	names []string
}

// parseTargets reads TYPE[,TYPE...], TYPE NAME..., TYPE/NAME... and all.
func parseTargets(cmd *cobra.Command, args []string) ([]target, error) {
	if len(args) == 0 {
		err := usage(cmd, "say what: TYPE, TYPE NAME or TYPE/NAME")
		err.fix = "the types are " + strings.Join(plurals(), ", ")
		return nil, err
	}
	if strings.Contains(args[0], "/") {
		return parseSlashed(cmd, args)
	}
	if args[0] == "all" && len(args) == 1 {
		var out []target
		for _, k := range kinds {
			out = append(out, target{kind: k.kind})
		}
		return out, nil
	}
	var out []target
	for name := range strings.SplitSeq(args[0], ",") {
		kind, err := kindOf(cmd, name)
		if err != nil {
			return nil, err
		}
		out = append(out, target{kind: kind, names: args[1:]})
	}
	for _, name := range args[1:] {
		if strings.Contains(name, "/") {
			return nil, usage(cmd, "%q: write TYPE NAME or TYPE/NAME, not both", name)
		}
	}
	return out, nil
}

func parseSlashed(cmd *cobra.Command, args []string) ([]target, error) {
	var out []target
	for _, arg := range args {
		typ, name, ok := strings.Cut(arg, "/")
		if !ok || name == "" || strings.Contains(name, "/") {
			return nil, usage(cmd, "%q: want TYPE/NAME", arg)
		}
		kind, err := kindOf(cmd, typ)
		if err != nil {
			return nil, err
		}
		out = append(out, target{kind: kind, names: []string{name}})
	}
	return out, nil
}
