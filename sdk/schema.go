package sdk

import (
	"encoding/json"
	"fmt"
	"reflect"
	"strings"
	"unicode"
)

// configField is what the type of a config says of one field.
type configField struct {
	name       string
	index      []int
	typ        reflect.Type
	required   bool
	hasDefault bool
	defaultTo  string
	enum       []string
	doc        string
}

// configFields lists the fields of a struct in order; the fields of embedded structs count as its own.
func configFields(t reflect.Type) []configField {
	var fields []configField
	for _, f := range reflect.VisibleFields(t) {
		if !f.IsExported() || f.Anonymous && f.Type.Kind() == reflect.Struct && f.Tag.Get("json") == "" {
			continue
		}
		c := configField{name: f.Tag.Get("json"), index: f.Index, typ: f.Type, doc: f.Tag.Get("doc")}
		c.name, _, _ = strings.Cut(c.name, ",")
		switch c.name {
		case "-":
			continue
		case "":
			c.name = lowerCamel(f.Name)
		}
		c.defaultTo, c.hasDefault = f.Tag.Lookup("default")
		for word := range strings.SplitSeq(f.Tag.Get("conveyor"), ",") {
			switch key, value, _ := strings.Cut(word, "="); key {
			case "":
			case "required":
				c.required = true
			case "enum":
				c.enum = strings.Split(value, "|")
			default:
				panic(fmt.Sprintf("sdk: field %s of config %s: unknown word %q in its conveyor tag", f.Name, t, key))
			}
		}
		fields = append(fields, c)
	}
	return fields
}

// defaultJSON returns the default as JSON: the tag's text, quoted where the field wants a string.
func (f configField) defaultJSON() json.RawMessage {
	if f.typ.Kind() == reflect.String || f.typ == durationType || f.typ.Kind() == reflect.Struct {
		quoted, err := json.Marshal(f.defaultTo)
		if err != nil {
			panic(fmt.Sprintf("sdk: default of config field %s: %v", f.name, err))
		}
		return quoted
	}
	return json.RawMessage(f.defaultTo)
}

// lowerCamel turns URL into url, RecordID into recordId and MaxLineBytes into maxLineBytes.
func lowerCamel(name string) string {
	runes := []rune(name)
	out := make([]rune, len(runes))
	for i, r := range runes {
		startsWord := i > 0 && unicode.IsUpper(r) &&
			(!unicode.IsUpper(runes[i-1]) || i+1 < len(runes) && unicode.IsLower(runes[i+1]))
		if startsWord {
			out[i] = r
		} else {
			out[i] = unicode.ToLower(r)
		}
	}
	return string(out)
}

// Schema returns the JSON Schema of a config of type C, a struct; see [DecodeConfig] for how its fields are read.
func Schema[C any]() []byte {
	t := reflect.TypeFor[C]()
	if t.Kind() != reflect.Struct {
		panic(fmt.Sprintf("sdk: a config is a struct, not %s", t))
	}
	schema := schemaOf(t)
	schema["$schema"] = "https://json-schema.org/draft/2020-12/schema"
	data, err := json.Marshal(schema)
	if err != nil {
		panic(fmt.Sprintf("sdk: schema of config %s: %v", t, err))
	}
	return data
}

func schemaOf(t reflect.Type) map[string]any {
	switch {
	case t == durationType:
		return map[string]any{"type": "string", "description": `a duration like "10s"`}
	case t == rawType || t.Kind() == reflect.Interface:
		return map[string]any{}
	case decodesItself(t):
		return map[string]any{}
	}
	switch t.Kind() {
	case reflect.Pointer:
		return schemaOf(t.Elem())
	case reflect.Slice:
		return map[string]any{"type": "array", "items": schemaOf(t.Elem())}
	case reflect.Map:
		return map[string]any{"type": "object", "additionalProperties": schemaOf(t.Elem())}
	case reflect.String:
		return map[string]any{"type": "string"}
	case reflect.Bool:
		return map[string]any{"type": "boolean"}
	case reflect.Float32, reflect.Float64:
		return map[string]any{"type": "number"}
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
		return map[string]any{"type": "integer"}
	case reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		return map[string]any{"type": "integer", "minimum": 0}
	case reflect.Struct:
		return objectSchema(t)
	}
	panic(fmt.Sprintf("sdk: a config cannot have a field of type %s", t))
}

func objectSchema(t reflect.Type) map[string]any {
	properties := map[string]any{}
	required := []string{}
	for _, f := range configFields(t) {
		property := schemaOf(f.typ)
		if f.doc != "" {
			property["description"] = f.doc
		}
		if len(f.enum) > 0 {
			property["enum"] = f.enum
		}
		if f.hasDefault {
			property["default"] = f.defaultJSON()
		}
		if f.required {
			required = append(required, f.name)
		}
		properties[f.name] = property
	}
	schema := map[string]any{"type": "object", "properties": properties, "additionalProperties": false}
	if len(required) > 0 {
		schema["required"] = required
	}
	return schema
}

// suggest returns the words that offer the field most like an unknown one.
func suggest(name string, fields []configField) string {
	best, at := len(name)/2+2, ""
	names := make([]string, len(fields))
	for i, f := range fields {
		names[i] = f.name
		if n := distance(strings.ToLower(name), strings.ToLower(f.name)); n < best {
			best, at = n, f.name
		}
	}
	switch {
	case at != "":
		return fmt.Sprintf(", did you mean %q?", at)
	case len(names) > 0:
		return ", there are " + strings.Join(names, ", ")
	}
	return ", no field is known"
}

// distance is Levenshtein's.
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := diagonal
			if a[i] != b[j] {
				cost++
			}
			diagonal = row[j+1]
			row[j+1] = min(cost, row[j]+1, diagonal+1)
		}
	}
	return row[len(b)]
}
