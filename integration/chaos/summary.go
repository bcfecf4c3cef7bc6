package chaos

import (
	"bytes"
	"cmp"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
)

// ReadRuns reads a list of runs.
func ReadRuns(content []byte) ([]Run, error) {
	var out []Run
	for line := range bytes.Lines(content) {
		var r Run
		if err := json.Unmarshal(line, &r); err != nil {
			return nil, fmt.Errorf("line %d of the list of runs: %w", len(out)+1, err)
		}
		out = append(out, r)
	}
	return out, nil
}

// Summary is what runs come to, in Markdown.
func Summary(runs []Run) string {
	var sum Run
	failed, seconds := []Run{}, 0
	faults := map[string]int{}
	for _, r := range runs {
		seconds += r.Seconds
		for kind, n := range r.Faults {
			faults[kind] += n
		}
		sum.Histories += r.Histories
		sum.Operations += r.Operations
		sum.Changes += r.Changes
		sum.Letters += r.Letters
		sum.Watches += r.Watches
		sum.Records += r.Records
		sum.Duplicates += r.Duplicates
		sum.Lost += r.Lost
		sum.P99, sum.Moved = max(sum.P99, r.P99), max(sum.Moved, r.Moved)
		if !r.Passed {
			failed = append(failed, r)
		}
	}
	var b strings.Builder
	fmt.Fprintf(&b, "%d runs took %.1f hours, and %d of them found something. In the others no acknowledged change and no acknowledged letter was missing, every history could have been\n"+
		"that of a single router, and no record was lost or came out of the order of its key.\n\n| Faults | |\n|---|---|\n", len(runs), float64(seconds)/3600, len(failed))
	kinds := slices.SortedFunc(maps.Keys(faults), func(a, b string) int {
		return cmp.Or(cmp.Compare(faults[b], faults[a]), cmp.Compare(a, b))
	})
	for _, kind := range kinds {
		fmt.Fprintf(&b, "| %s | %d |\n", kind, faults[kind])
	}
	b.WriteString("\n| Meanwhile | |\n|---|---|\n")
	for _, row := range []struct {
		what string
		n    int
	}{
		{"histories of changes and reads", sum.Histories},
		{"operations in them", sum.Operations},
		{"changes acknowledged", sum.Changes},
		{"letters acknowledged", sum.Letters},
		{"watches that began again behind an earlier change", sum.Watches},
		{"records through pipelines", sum.Records},
		{"of these delivered again after a fault", sum.Duplicates},
		{"records lost", sum.Lost},
		{"milliseconds from a leader's end to the first accepted write, the worst p99 of a run", int(sum.P99)},
		{"milliseconds from the end of one of many sidecars until its stages had another one, the longest", int(sum.Moved)},
	} {
		fmt.Fprintf(&b, "| %s | %d |\n", row.what, row.n)
	}
	if len(failed) > 0 {
		b.WriteString("\nWhat was found:\n\n")
		for _, r := range failed {
			fmt.Fprintf(&b, "- %s of %s with seed %d: %s\n", r.Test, r.Commit, r.Seed, cmp.Or(r.Found, "not yet looked at"))
		}
	}
	return b.String()
}
