package main

import (
	"encoding/json"
	"fmt"
	"io"
	"regexp"
	"slices"
	"strings"
)

// event is one line of `go test -json`; see `go doc test2json`.
type event struct {
	Action      string
	Package     string
	ImportPath  string // of build-output and build-fail
	Test        string
	Output      string
	FailedBuild string
}

// name identifies a test or, with an empty test, a package.
type name struct{ pkg, test string }

// report prints the line of each package when it ends, the output of what failed, and keeps the rest for the end.
type report struct {
	w       io.Writer
	output  map[name]*strings.Builder // of what still runs
	builds  map[string]*strings.Builder
	failing map[string]int // failed tests by package
	passed  int
	failed  []string
	skipped []string
}

func newReport(w io.Writer) *report {
	return &report{
		w: w, output: map[name]*strings.Builder{}, builds: map[string]*strings.Builder{}, failing: map[string]int{},
	}
}

// add takes one line of the stream. A line that is no event is printed as it is.
func (r *report) add(line []byte) {
	var e event
	if err := json.Unmarshal(line, &e); err != nil || e.Action == "" {
		fmt.Fprintf(r.w, "%s\n", strings.TrimRight(string(line), "\n"))
		return
	}
	key := name{e.Package, e.Test}
	switch e.Action {
	case "build-output":
		at(r.builds, e.ImportPath).WriteString(e.Output)
	case "output":
		at(r.output, key).WriteString(e.Output)
	case "pass", "fail", "skip":
		if e.Test == "" {
			r.endPackage(e)
		} else {
			r.endTest(e)
		}
		delete(r.output, key)
	}
}

func at[K comparable](m map[K]*strings.Builder, key K) *strings.Builder {
	b := m[key]
	if b == nil {
		b = &strings.Builder{}
		m[key] = b
	}
	return b
}

func (r *report) endTest(e event) {
	text := at(r.output, name{e.Package, e.Test}).String()
	switch e.Action {
	case "pass":
		r.passed++
	case "skip":
		r.skipped = append(r.skipped, fmt.Sprintf("%s.%s: %s", short(e.Package), e.Test, reason(text)))
	case "fail":
		r.failing[e.Package]++
		r.failed = append(r.failed, short(e.Package)+"."+e.Test)
		io.WriteString(r.w, text)
	}
}

// endPackage prints what the package itself said, which ends with the usual ok or FAIL line.
func (r *report) endPackage(e event) {
	text := at(r.output, name{e.Package, ""}).String()
	died := e.Action == "fail" && r.unended(e.Package)
	if e.Action == "fail" && r.failing[e.Package] == 0 {
		// No test failed, so the reason is elsewhere: the build, TestMain, or the test that was running when the process died.
		r.failed = append(r.failed, short(e.Package))
		if b := r.builds[e.FailedBuild]; b != nil {
			io.WriteString(r.w, b.String())
		}
		died = true
	}
	if died {
		io.WriteString(r.w, text)
		return
	}
	for line := range strings.Lines(text) {
		if strings.HasPrefix(line, "ok  \t") || strings.HasPrefix(line, "FAIL\t") {
			io.WriteString(r.w, line)
		}
	}
}

// unended prints what the tests of a package said that were running when its process died, of a timeout for example, and reports whether there were any.
func (r *report) unended(pkg string) (found bool) {
	for key, b := range r.output {
		if key.pkg == pkg && key.test != "" {
			io.WriteString(r.w, b.String())
			delete(r.output, key)
			found = true
		}
	}
	return found
}

var place = regexp.MustCompile(`^\s+\S+\.go:\d+: (.*)`)

// reason returns what the test said when it was skipped.
func reason(text string) string {
	why := "no reason given"
	for line := range strings.Lines(text) {
		if m := place.FindStringSubmatch(strings.TrimRight(line, "\n")); m != nil {
			why = m[1]
		}
	}
	return why
}

// short cuts what all packages share from an import path.
func short(pkg string) string {
	return strings.TrimPrefix(pkg, "github.com/conveyor-etl/conveyor/")
}

// close prints the end of the report and returns the exit code. broken holds how the go commands themselves ended.
func (r *report) close(broken []error, failOnSkip bool) int {
	if len(r.skipped) > 0 {
		fmt.Fprintln(r.w, "\nskipped:")
		slices.Sort(r.skipped)
		for _, s := range r.skipped {
			fmt.Fprintln(r.w, "  "+s)
		}
	}
	if len(r.failed) > 0 {
		fmt.Fprintln(r.w, "\nfailed:")
		for _, f := range r.failed {
			fmt.Fprintln(r.w, "  "+f)
		}
	}
	bad := len(r.failed) > 0
	if !bad && len(broken) > 0 {
		bad = true
		fmt.Fprintf(r.w, "\ngo test ended with %v although no test failed\n", broken)
	}
	if failOnSkip && len(r.skipped) > 0 {
		bad = true
		fmt.Fprintln(r.w, "\na skipped test fails this run, because CONVEYOR_FAIL_ON_SKIP is set")
	}
	if r.passed == 0 && !bad {
		bad = true
		fmt.Fprintln(r.w, "\nno test ran")
	}
	verdict := "ok"
	if bad {
		verdict = "FAIL"
	}
	fmt.Fprintf(r.w, "\n%s  %d passed, %d failed, %d skipped\n", verdict, r.passed, len(r.failed), len(r.skipped))
	if bad {
		return 1
	}
	return 0
}
