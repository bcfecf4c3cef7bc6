// Command modsync keeps what the modules of this repository must agree on: their go.mod files, go.work and licences.
package main

import (
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
)

func main() {
	os.Exit(run(os.Args[1:], os.Stdout, os.Stderr))
}

// run reads tools/modules.txt and versions.yaml below -root and writes, or with -check only compares,
// every file that follows from them. It returns the exit code: 1 when something differs or fails, 2 for wrong usage.
func run(args []string, stdout, stderr io.Writer) int {
	flags := flag.NewFlagSet("modsync", flag.ContinueOnError)
	flags.SetOutput(stderr)
	root := flags.String("root", ".", "the root of the repository")
	check := flags.Bool("check", false, "write nothing, name the files that differ")
	if err := flags.Parse(args); err != nil {
		return 2
	}
	files, err := plan(*root)
	if err != nil {
		fmt.Fprintln(stderr, "modsync:", err)
		return 1
	}
	code := 0
	for _, f := range files {
		path := filepath.Join(*root, f.path)
		old, err := os.ReadFile(path)
		if err == nil && string(old) == string(f.content) {
			continue
		}
		if *check {
			fmt.Fprintf(stdout, "%s: out of date, run `make generate`\n", f.path)
			code = 1
			continue
		}
		if err := os.WriteFile(path, f.content, 0o644); err != nil {
			fmt.Fprintln(stderr, "modsync:", err)
			return 1
		}
		fmt.Fprintln(stdout, "wrote", f.path)
	}
	return code
}
