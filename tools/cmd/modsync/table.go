package main

import (
	"bufio"
	"bytes"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
)

// module is one line of tools/modules.txt together with its version from versions.yaml.
type module struct {
	name     string
	siblings []string // every sibling it may reach, also through another one; sorted
	version  string   // empty for a module that is never released
}

// loadTable returns the modules whose folder exists, in the order of the table.
func loadTable(root string) ([]module, error) {
	table, err := os.ReadFile(filepath.Join(root, "tools", "modules.txt"))
	if err != nil {
		return nil, err
	}
	versionFile, err := os.ReadFile(filepath.Join(root, "versions.yaml"))
	if err != nil {
		return nil, err
	}
	versions := parseVersions(versionFile)
	modules, err := parseTable(table)
	if err != nil {
		return nil, fmt.Errorf("tools/modules.txt: %w", err)
	}
	exists := func(name string) bool {
		_, err := os.Stat(filepath.Join(root, name, "go.mod"))
		return err == nil
	}
	var out []module
	for _, m := range modules {
		if !exists(m.name) {
			continue
		}
		m.siblings = slices.DeleteFunc(m.siblings, func(s string) bool { return !exists(s) })
		m.version = versions[m.name]
		out = append(out, m)
	}
	for _, m := range out {
		for _, s := range m.siblings {
			if versions[s] == "" {
				return nil, fmt.Errorf("versions.yaml: no version for %s, which %s requires", s, m.name)
			}
		}
	}
	return out, nil
}

// parseTable reads lines of `name | siblings | reason` and closes the siblings over what they may import themselves:
// with GOWORK=off, cmd/go needs a replace line for every module in the graph, not only for the direct ones.
func parseTable(table []byte) ([]module, error) {
	var modules []module
	reach := map[string]map[string]bool{}
	lines := bufio.NewScanner(bytes.NewReader(table))
	for n := 1; lines.Scan(); n++ {
		line := strings.TrimSpace(lines.Text())
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		columns := strings.Split(line, "|")
		if len(columns) != 3 {
			return nil, fmt.Errorf("line %d: want `name | siblings | reason`", n)
		}
		name := strings.TrimSpace(columns[0])
		all := map[string]bool{}
		for _, word := range strings.Fields(columns[1]) {
			switch {
			case word == "*":
				for _, m := range modules {
					all[m.name] = true
				}
			case strings.HasPrefix(word, "-"):
				delete(all, word[1:])
			case reach[word] == nil:
				return nil, fmt.Errorf("line %d: %s may import %s, which is not above it", n, name, word)
			default:
				all[word] = true
				maps.Copy(all, reach[word])
			}
		}
		reach[name] = all
		modules = append(modules, module{name: name, siblings: slices.Sorted(maps.Keys(all))})
	}
	return modules, lines.Err()
}

var versionLine = regexp.MustCompile(`(?m)^  ([a-z]+): *(v[0-9][^ #\n]*)`)

// parseVersions reads the `  name: vX.Y.Z` lines of versions.yaml.
func parseVersions(file []byte) map[string]string {
	versions := map[string]string{}
	for _, m := range versionLine.FindAllStringSubmatch(string(file), -1) {
		versions[m[1]] = m[2]
	}
	return versions
}
