package dsl

import (
	"encoding/json"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strconv"
	"strings"

	"github.com/conveyor-etl/conveyor/dsl/internal/yamlsrc"
)

// later are words of the manifest language that this version refuses by name, by the type that would have them.
var later = map[reflect.Type][]string{
	reflect.TypeFor[ServiceSpec](): {
		"fields", "jq", "dedupe", "wasm", "workload", "configFrom", "placement", "clusterRef",
	},
	reflect.TypeFor[GRPCSpec]():      {"tls", "proto"},
	reflect.TypeFor[ConnectorSpec](): {"configFrom"},
	reflect.TypeFor[PipelineSpec]():  {"clusterRef", "onBlocked"},
	reflect.TypeFor[Stage]():         {"fields", "jq", "dedupe", "wasm"},
	reflect.TypeFor[Delivery]():      {"guarantee"},
	reflect.TypeFor[DLQ]():           {"thresholds", "retention", "onExhausted"},
}

// decoder fills Go values from nodes and reports everything that does not fit.
type decoder struct {
	reporter
	// guessed are the fields that a misspelt one was most likely meant to be: they are not missing as well.
	guessed map[string]bool
}

// decode fills v, which must be settable, from the node. It returns false when v could not be filled.
func (d *decoder) decode(n *yamlsrc.Node, v reflect.Value, path string, tag reflect.StructTag) bool {
	d.place.values[path] = n
	if n.Kind == yamlsrc.Null {
		d.report(CodeNoValue, path, fmt.Sprintf("%s has no value", path)).Suggestion = "give it a value, or remove the field"
		return false
	}
	if v.Type() == reflect.TypeFor[json.RawMessage]() {
		d.remember(n, path)
		if n.Kind != yamlsrc.Map {
			return d.wrongType(n, path, "a mapping")
		}
		v.SetBytes(yamlsrc.AppendJSON(nil, n))
		return true
	}
	switch v.Kind() {
	case reflect.Pointer:
		p := reflect.New(v.Type().Elem())
		if !d.decode(n, p.Elem(), path, tag) && n.Kind != yamlsrc.Map {
			return false
		}
		v.Set(p)
		return true
	case reflect.Struct:
		return d.object(n, v, path)
	case reflect.Slice:
		return d.list(n, v, path)
	case reflect.Map:
		return d.stringMap(n, v, path)
	case reflect.String:
		return d.str(n, v, path, tag)
	case reflect.Bool:
		if n.Kind != yamlsrc.Bool {
			return d.wrongType(n, path, "true or false")
		}
		v.SetBool(n.Text == "true")
	case reflect.Int:
		if n.Kind != yamlsrc.Int {
			return d.wrongType(n, path, "an integer")
		}
		i, err := strconv.ParseInt(n.Text, 10, 32)
		if err != nil {
			d.report(CodeOutOfRange, path, fmt.Sprintf("%s is out of range: %s", path, n.Text))
			return false
		}
		v.SetInt(i)
	}
	return true
}

// remember keeps the places of what is handed on as it is.
func (d *decoder) remember(n *yamlsrc.Node, path string) {
	for i, item := range n.Items {
		p := fmt.Sprintf("%s[%d]", path, i)
		if n.Kind == yamlsrc.Map {
			p = path + "." + n.Keys[i].Text
			d.place.keys[p] = n.Keys[i]
		}
		d.place.values[p] = item
		d.remember(item, p)
	}
}

func (d *decoder) wrongType(n *yamlsrc.Node, path, want string) bool {
	diag := d.report(CodeWrongType, path, fmt.Sprintf("%s is %s, want %s", path, n.Kind, want))
	scalar := n.Kind == yamlsrc.Bool || n.Kind == yamlsrc.Int || n.Kind == yamlsrc.Float
	if want == "a string" && scalar {
		diag.Suggestion = fmt.Sprintf("quote it: %q", n.Text)
		diag.fixWith(strconv.Quote(n.Text))
	}
	if n.Kind == yamlsrc.String && n.Quoted && n.Literal && (want == "an integer" && isInteger(n.Text) || want == "true or false" && isBool(n.Text)) {
		diag.Suggestion = "write it without quotes"
		diag.fixWith(n.Text)
	}
	if want == "a list" && n.Kind == yamlsrc.String {
		diag.Suggestion = fmt.Sprintf("write it as a list: [%s]", n.Text)
	}
	return false
}

func isInteger(s string) bool {
	_, err := strconv.ParseInt(s, 10, 32)
	return err == nil
}

func isBool(s string) bool { return s == "true" || s == "false" }

func (d *decoder) str(n *yamlsrc.Node, v reflect.Value, path string, tag reflect.StructTag) bool {
	if n.Kind != yamlsrc.String {
		return d.wrongType(n, path, "a string")
	}
	if strings.TrimSpace(n.Text) == "" && !strings.HasPrefix(path, "metadata.labels") && !strings.HasPrefix(path, "metadata.annotations") {
		d.report(CodeNoValue, path, fmt.Sprintf("%s is empty", path)).Suggestion = "give it a value, or remove the field"
		return false
	}
	v.SetString(n.Text)
	enum, ok := tag.Lookup("enum")
	if !ok {
		return true
	}
	words := strings.Split(enum, "|")
	if slices.Contains(words, n.Text) {
		return true
	}
	if slices.Contains(strings.Split(tag.Get("later"), "|"), n.Text) {
		d.notAvailable(path, fmt.Sprintf("%s: %s", lastField(path), n.Text), false)
		return false
	}
	diag := d.report(CodeUnknownValue, path, fmt.Sprintf("%s has no value %q", lastField(path), n.Text))
	diag.Label = "want " + listOf(words)
	d.meantValue(diag, path, closest(n.Text, words))
	return false
}

// notAvailable reports a word that this version does not have, at its key or at its value.
func (d *decoder) notAvailable(path, what string, key bool) {
	report := d.report
	if key {
		report = d.reportKey
	}
	diag := report(CodeNotAvailable, path, fmt.Sprintf("%q is known but not available in this version", what))
	diag.Suggestion = "remove it"
}

func lastField(path string) string { return path[strings.LastIndexByte(path, '.')+1:] }

func (d *decoder) list(n *yamlsrc.Node, v reflect.Value, path string) bool {
	if n.Kind != yamlsrc.List {
		return d.wrongType(n, path, "a list")
	}
	if len(n.Items) > maxItems {
		d.report(CodeOutOfRange, path, fmt.Sprintf("%s has %d items, at most %d are allowed", path, len(n.Items), maxItems))
		return false
	}
	out := reflect.MakeSlice(v.Type(), len(n.Items), len(n.Items))
	ok := true
	for i, item := range n.Items {
		ok = d.decode(item, out.Index(i), fmt.Sprintf("%s[%d]", path, i), "") && ok
	}
	v.Set(out)
	return ok
}

func (d *decoder) stringMap(n *yamlsrc.Node, v reflect.Value, path string) bool {
	if n.Kind != yamlsrc.Map {
		return d.wrongType(n, path, "a mapping")
	}
	out := make(map[string]string, len(n.Keys))
	for i, k := range n.Keys {
		var s string
		p := path + "." + k.Text
		d.place.keys[p] = k
		if d.decode(n.Items[i], reflect.ValueOf(&s).Elem(), p, "") {
			out[k.Text] = s
		}
	}
	if len(out) > 0 {
		v.Set(reflect.ValueOf(out))
	}
	return true
}

func (d *decoder) object(n *yamlsrc.Node, v reflect.Value, path string) bool {
	if n.Kind != yamlsrc.Map {
		return d.wrongType(n, path, "a mapping")
	}
	fields := fieldsOf(v.Type())
	ok := true
	for i, k := range n.Keys {
		p := join(path, k.Text)
		d.place.keys[p] = k
		if f, known := fields[k.Text]; known {
			ok = d.decode(n.Items[i], v.FieldByIndex(f.Index), p, f.Tag) && ok
			continue
		}
		d.place.values[p] = n.Items[i]
		ok = false
		words := later[v.Type()]
		if slices.Contains(words, k.Text) {
			d.notAvailable(p, k.Text, true)
			continue
		}
		d.unknownField(p, k.Text, slices.Sorted(maps.Keys(fields)))
	}
	return ok
}

func (d *decoder) unknownField(path, name string, known []string) {
	diag := d.reportKey(CodeUnknownField, path, fmt.Sprintf("unknown field %q", name))
	diag.Label = "known here: " + listOf(known)
	word := closest(name, known)
	diag.meant(word)
	if word != "" {
		d.guessed[strings.TrimSuffix(path, name)+word] = true
	}
	if k := d.place.keys[path]; k.EndColumn-k.Column != len(name) {
		diag.Fix = nil
	}
}

func fieldsOf(t reflect.Type) map[string]reflect.StructField {
	fields := make(map[string]reflect.StructField, t.NumField())
	for i := range t.NumField() {
		f := t.Field(i)
		if name, _, _ := strings.Cut(f.Tag.Get("json"), ","); name != "" && f.IsExported() {
			fields[name] = f
		}
	}
	return fields
}

func join(path, name string) string {
	if path == "" {
		return name
	}
	return path + "." + name
}
