// Package overlay gives the compiler other lines in place of those of the working tree, which stays as it is.
package overlay

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// Edit replaces text that a file holds exactly once. With an empty From it adds a file that is not there.
type Edit struct {
	// File is relative to the root of the repository.
	File     string
	From, To string
}

// list is the form in which the go command takes an overlay.
type list struct {
	Replace map[string]string
}

// Write writes the edited files into dir, which outlives their use, and returns the flag that makes the go command use them. What the variable GOFLAGS replaces already
// stays replaced.
func Write(root, dir string, edits ...Edit) (flag string, err error) {
	l, err := inherited()
	if err != nil {
		return "", err
	}
	content := map[string]string{}
	for _, e := range edits {
		path := filepath.Join(root, filepath.FromSlash(e.File))
		if e.From == "" {
			if _, err := os.Lstat(path); err == nil {
				return "", fmt.Errorf("add %s: it is there", e.File)
			}
			content[path] = e.To
			continue
		}
		if _, read := content[path]; !read {
			from := path
			if replaced, ok := l.Replace[path]; ok {
				from = replaced
			}
			b, err := os.ReadFile(from)
			if err != nil {
				return "", fmt.Errorf("edit %s: %w", e.File, err)
			}
			content[path] = string(b)
		}
		if n := strings.Count(content[path], e.From); n != 1 {
			return "", fmt.Errorf("edit %s: it holds %q %d times, want once", e.File, e.From, n)
		}
		content[path] = strings.Replace(content[path], e.From, e.To, 1)
	}
	for path, text := range content {
		edited := filepath.Join(dir, strconv.Itoa(len(l.Replace))+"-"+filepath.Base(path))
		if err := os.WriteFile(edited, []byte(text), 0o600); err != nil {
			return "", fmt.Errorf("write the edited %s: %w", path, err)
		}
		l.Replace[path] = edited
	}
	b, err := json.Marshal(l)
	if err != nil {
		return "", fmt.Errorf("list the edited files: %w", err)
	}
	file := filepath.Join(dir, "overlay.json")
	if err := os.WriteFile(file, b, 0o600); err != nil {
		return "", fmt.Errorf("list the edited files: %w", err)
	}
	return "-overlay=" + file, nil
}

// inherited is the overlay that GOFLAGS names; an empty one if it names none.
func inherited() (list, error) {
	l := list{Replace: map[string]string{}}
	for _, flag := range strings.Fields(os.Getenv("GOFLAGS")) {
		file, is := strings.CutPrefix(flag, "-overlay=")
		if !is {
			continue
		}
		b, err := os.ReadFile(file)
		if err == nil {
			err = json.Unmarshal(b, &l)
		}
		if err != nil {
			return list{}, fmt.Errorf("read the overlay of GOFLAGS: %w", err)
		}
	}
	return l, nil
}
