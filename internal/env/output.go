package env

import (
	"fmt"
	"io"
	"strconv"
	"strings"
)

// WriteConfig writes the values in effect as a YAML file that --config takes, each with its origin as
// a comment. Secrets are masked; a masked line is commented out, so that the mask is never read back.
func (r *Result) WriteConfig(w io.Writer) error {
	lines := make([]string, len(r.fields))
	width := 0
	for i, f := range r.fields {
		lines[i] = f.flag + ": " + plain(f.text())
		if f.secret && !f.v.IsZero() {
			lines[i] = "# " + f.flag + ": " + mask
		}
		width = max(width, min(len(lines[i]), 60))
	}
	for i, f := range r.fields {
		if _, err := fmt.Fprintf(w, "%-*s  # %s\n", width, lines[i], f.origin); err != nil {
			return fmt.Errorf("print configuration: %w", err)
		}
	}
	return nil
}

// WriteHelp writes how to call the binary and all its settings.
func (r *Result) WriteHelp(w io.Writer) error {
	var b strings.Builder
	if r.summary != "" {
		fmt.Fprintf(&b, "%s\n\n", r.summary)
	}
	fmt.Fprintf(&b, "Usage: %s [flags]\n\nFlags, environment variables and defaults:\n", r.program)
	for _, f := range r.fields {
		head := "--" + f.flag
		if !f.isBool() {
			head += " VALUE"
		}
		if f.env != "" {
			head += ", " + f.env
		}
		fmt.Fprintf(&b, "  %s\n", head)
		desc := f.desc
		switch {
		case f.required:
			desc += " (required)"
		case f.def != "":
			desc += " (default " + f.def + ")"
		}
		if desc != "" {
			fmt.Fprintf(&b, "        %s\n", strings.TrimSpace(desc))
		}
	}
	b.WriteString(`  --config FILE
        YAML file with settings; its keys are the names of the flags
  --print-config
        print every setting with its origin, and exit
  --version
        print the version, and exit
  -h, --help
        print this text, and exit

A flag wins over an environment variable, that over the file, that over the default.
`)
	if _, err := io.WriteString(w, b.String()); err != nil {
		return fmt.Errorf("print help: %w", err)
	}
	return nil
}

// plain quotes a text unless YAML reads it as it is. Types do not matter: the reader takes scalars by
// their text.
func plain(text string) string {
	for i, c := range text {
		letter := c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9'
		inner := i > 0 && strings.ContainsRune("-=,:", c) && i < len(text)-1
		if !letter && !inner && !strings.ContainsRune("./_", c) {
			return quote(text)
		}
	}
	if text == "" || strings.EqualFold(text, "null") {
		return quote(text)
	}
	return text
}

// quote writes a YAML double-quoted scalar; Go's escapes are a subset of YAML's.
func quote(text string) string { return strconv.Quote(text) }
