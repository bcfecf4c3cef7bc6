package env

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"go.yaml.in/yaml/v4"
)

// maxFileBytes bounds what is read as a configuration file.
const maxFileBytes = 1 << 20

// fileValue is a value of the file with its place, "conveyor.yaml:3".
type fileValue struct{ text, place string }

// readFile reads a flat YAML mapping from the names of flags to scalars or lists of scalars.
func readFile(path string, read func(string) ([]byte, error), fields []*field, faults *Error) map[string]fileValue {
	if read == nil {
		faults.add("--config: files are not read here")
		return nil
	}
	data, err := read(path)
	switch {
	case err != nil:
		faults.add("--config: %v", err)
		return nil
	case len(data) > maxFileBytes:
		faults.add("--config: %s: larger than %d bytes", path, maxFileBytes)
		return nil
	}
	var doc yaml.Node
	dec := yaml.NewDecoder(bytes.NewReader(data))
	if err := dec.Decode(&doc); errors.Is(err, io.EOF) {
		return nil // an empty file
	} else if err != nil {
		faults.add("--config: %s: %s", path, strings.TrimPrefix(err.Error(), "yaml: "))
		return nil
	}
	if err := dec.Decode(new(yaml.Node)); !errors.Is(err, io.EOF) {
		faults.add("--config: %s: holds more than one document", path)
		return nil
	}
	root := doc.Content[0]
	if root.Kind == yaml.ScalarNode && root.Tag == "!!null" {
		return nil // only comments
	}
	if root.Kind != yaml.MappingNode {
		faults.add("%s:%d: expected settings as name: value", path, root.Line)
		return nil
	}
	names := make([]string, len(fields))
	for i, f := range fields {
		names[i] = f.flag
	}
	out := map[string]fileValue{}
	for i := 0; i+1 < len(root.Content); i += 2 {
		key, value := root.Content[i], root.Content[i+1]
		place := fmt.Sprintf("%s:%d", path, key.Line)
		text, err := scalars(value)
		first, twice := out[key.Value]
		switch {
		case !slices.Contains(names, key.Value):
			faults.add("%s: %s: unknown setting%s", place, key.Value, suggest("", key.Value, names))
		case twice:
			faults.add("%s: %s: set twice, first at %s", place, key.Value, first.place)
		case err != nil:
			faults.add("%s: %s: %v", place, key.Value, err)
		default:
			out[key.Value] = fileValue{text, place}
		}
	}
	return out
}

// scalars returns a scalar as it is written, and a list with commas between its elements.
func scalars(n *yaml.Node) (string, error) {
	switch {
	case n.Anchor != "" || n.Kind == yaml.AliasNode:
		return "", errors.New("anchors and aliases are not allowed")
	case n.Kind == yaml.ScalarNode && n.Tag == "!!null":
		return "", nil
	case n.Kind == yaml.ScalarNode:
		return n.Value, nil
	case n.Kind == yaml.SequenceNode:
		parts := make([]string, len(n.Content))
		for i, c := range n.Content {
			if c.Kind != yaml.ScalarNode || c.Anchor != "" {
				return "", errors.New("expected a list of plain values")
			}
			parts[i] = c.Value
		}
		return strings.Join(parts, ","), nil
	}
	return "", errors.New("expected a plain value or a list")
}
