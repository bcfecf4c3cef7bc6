// Package output prints objects in the formats that every command shares.
package output

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"strings"

	"go.yaml.in/yaml/v4"
)

// Formats are the names of the formats, as they are shown to users.
const Formats = "table|wide|json|yaml|name|jsonpath=TEMPLATE"

// Format is how objects are printed. The zero value is the table. It is a flag value.
type Format struct {
	name string
	path *Template
}

// Wide is the table with more columns.
func (f *Format) Wide() bool { return f.name == "wide" }

// Table reports whether people read it.
func (f *Format) Table() bool { return f.name == "" || f.name == "table" || f.name == "wide" }

// String is the format as given.
func (f *Format) String() string {
	if f == nil || f.name == "" {
		return "table"
	}
	return f.name
}

// Type is shown in help texts.
func (f *Format) Type() string { return "FORMAT" }

// Set reads the format from a flag.
func (f *Format) Set(s string) error {
	name, arg, has := strings.Cut(s, "=")
	switch name {
	case "table", "wide", "json", "yaml", "name":
		if has {
			return fmt.Errorf("format %q takes no argument", name)
		}
	case "jsonpath":
		t, err := ParseTemplate(arg)
		if err != nil {
			return err
		}
		f.path = t
	default:
		return fmt.Errorf("unknown format %q; want %s", s, Formats)
	}
	f.name = name
	return nil
}

// Print writes object in a format for programs. names are what -o name prints. It must not be called for a table.
func (f *Format) Print(w io.Writer, object any, names []string) error {
	switch f.name {
	case "json":
		b, err := JSON(object)
		if err != nil {
			return err
		}
		_, err = w.Write(b)
		return err
	case "yaml":
		b, err := YAML(object)
		if err != nil {
			return err
		}
		_, err = w.Write(b)
		return err
	case "name":
		for _, n := range names {
			if _, err := fmt.Fprintln(w, n); err != nil {
				return err
			}
		}
		return nil
	case "jsonpath":
		b, err := JSON(object)
		if err != nil {
			return err
		}
		return f.path.Execute(w, b)
	default:
		return fmt.Errorf("format %s is not for programs", f)
	}
}

// JSON is the object as indented JSON with a final newline.
func JSON(object any) ([]byte, error) {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", "  ")
	if err := enc.Encode(object); err != nil {
		return nil, fmt.Errorf("encode as JSON: %w", err)
	}
	return b.Bytes(), nil
}

// YAML is the object as YAML, with the names and the order of its JSON.
func YAML(object any) ([]byte, error) {
	text, err := JSON(object)
	if err != nil {
		return nil, err
	}
	// Every JSON text is YAML; only its style has to change.
	var doc yaml.Node
	if err := yaml.Unmarshal(text, &doc); err != nil {
		return nil, fmt.Errorf("encode as YAML: %w", err)
	}
	blockStyle(&doc)
	var b bytes.Buffer
	enc := yaml.NewEncoder(&b)
	enc.SetIndent(2)
	if err := enc.Encode(&doc); err != nil {
		return nil, fmt.Errorf("encode as YAML: %w", err)
	}
	if err := enc.Close(); err != nil {
		return nil, fmt.Errorf("encode as YAML: %w", err)
	}
	if !bytes.HasSuffix(b.Bytes(), []byte("\n")) {
		b.WriteByte('\n')
	}
	return b.Bytes(), nil
}

func blockStyle(n *yaml.Node) {
	n.Style = 0
	if n.Kind == yaml.ScalarNode && n.Tag == "!!str" && strings.Contains(n.Value, "\n") {
		n.Style = yaml.LiteralStyle
	}
	if len(n.Content) == 0 && n.Kind != yaml.ScalarNode {
		n.Style = yaml.FlowStyle
	}
	for _, c := range n.Content {
		blockStyle(c)
	}
}
