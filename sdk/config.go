package sdk

import (
	"bytes"
	"encoding"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Validator is implemented by a config, or a pointer to one, that checks more than its fields tell.
type Validator interface {
	Validate() error
}

// ConfigError is everything that is wrong with a config.
type ConfigError struct {
	Faults []ConfigFault
}

// ConfigFault is one fault of a config.
type ConfigFault struct {
	// Field is the path of the field from the root of the config, for example "tls.caFile".
	Field string
	// Message says what is wrong with it.
	Message string
}

func (e *ConfigError) Error() string {
	texts := make([]string, len(e.Faults))
	for i, f := range e.Faults {
		texts[i] = f.Message
		if f.Field != "" {
			texts[i] = f.Field + ": " + f.Message
		}
	}
	return "config: " + strings.Join(texts, "; ")
}

// DecodeConfig decodes the JSON object of a config into C, a struct. It is strict: a field that C does not have is an error that names it.
// Empty data is an empty object. All faults are reported together, as a *ConfigError.
//
// A field is named by its json tag, or else by its Go name in lower camel case. The tags say more:
//
//	URL     string        `conveyor:"required" doc:"endpoint to post batches to"`
//	Timeout time.Duration `default:"5s"`
//	Format  string        `conveyor:"enum=ndjson|csv" default:"ndjson"`
//
// A time.Duration is a string like "10s". Types that implement json.Unmarshaler or encoding.TextUnmarshaler decode themselves.
func DecodeConfig[C any](data []byte) (C, error) {
	var cfg C
	var d configDecoder
	if len(bytes.TrimSpace(data)) == 0 {
		data = []byte("{}")
	}
	d.decode("", data, reflect.ValueOf(&cfg).Elem())
	if len(d.faults) == 0 {
		if err := validate(&cfg); err != nil {
			var e *ConfigError
			if errors.As(err, &e) {
				d.faults = e.Faults
			} else {
				d.fault("", "%v", err)
			}
		}
	}
	if len(d.faults) > 0 {
		return cfg, &ConfigError{d.faults}
	}
	return cfg, nil
}

func validate[C any](cfg *C) error {
	if v, ok := any(cfg).(Validator); ok {
		return v.Validate()
	}
	if v, ok := any(*cfg).(Validator); ok {
		return v.Validate()
	}
	return nil
}

type configDecoder struct {
	faults []ConfigFault
}

func (d *configDecoder) fault(path, format string, args ...any) {
	d.faults = append(d.faults, ConfigFault{path, fmt.Sprintf(format, args...)})
}

var (
	durationType        = reflect.TypeFor[time.Duration]()
	rawType             = reflect.TypeFor[json.RawMessage]()
	jsonUnmarshalerType = reflect.TypeFor[json.Unmarshaler]()
	textUnmarshalerType = reflect.TypeFor[encoding.TextUnmarshaler]()
)

func decodesItself(t reflect.Type) bool {
	p := reflect.PointerTo(t)
	return p.Implements(jsonUnmarshalerType) || p.Implements(textUnmarshalerType)
}

func (d *configDecoder) decode(path string, data json.RawMessage, v reflect.Value) {
	switch t := v.Type(); {
	case t == durationType:
		d.duration(path, data, v)
	case t == rawType || decodesItself(t) || t.Kind() == reflect.Interface:
		if err := json.Unmarshal(data, v.Addr().Interface()); err != nil {
			d.fault(path, "%s", plainJSONError(err))
		}
	default:
		d.decodeKind(path, data, v)
	}
}

func (d *configDecoder) decodeKind(path string, data json.RawMessage, v reflect.Value) {
	switch v.Kind() {
	case reflect.Struct:
		d.object(path, data, v)
	case reflect.Pointer:
		if isNull(data) {
			return
		}
		v.Set(reflect.New(v.Type().Elem()))
		d.decode(path, data, v.Elem())
	case reflect.Slice:
		var items []json.RawMessage
		if !d.unmarshal(path, "a list", data, &items) {
			return
		}
		v.Set(reflect.MakeSlice(v.Type(), len(items), len(items)))
		for i, item := range items {
			d.decode(fmt.Sprintf("%s[%d]", path, i), item, v.Index(i))
		}
	case reflect.Map:
		var items map[string]json.RawMessage
		if !d.unmarshal(path, "an object", data, &items) {
			return
		}
		v.Set(reflect.MakeMapWithSize(v.Type(), len(items)))
		for name, item := range items {
			value := reflect.New(v.Type().Elem()).Elem()
			d.decode(join(path, name), item, value)
			v.SetMapIndex(reflect.ValueOf(name).Convert(v.Type().Key()), value)
		}
	case reflect.String:
		var s string
		if d.unmarshal(path, "a string", data, &s) {
			v.SetString(s)
		}
	case reflect.Bool:
		var b bool
		if d.unmarshal(path, "true or false", data, &b) {
			v.SetBool(b)
		}
	default:
		d.number(path, data, v)
	}
}

func isNull(data []byte) bool { return string(bytes.TrimSpace(data)) == "null" }

func (d *configDecoder) unmarshal(path, want string, data json.RawMessage, to any) bool {
	if isNull(data) || json.Unmarshal(data, to) != nil {
		d.fault(path, "must be %s, not %s", want, shorten(data))
		return false
	}
	return true
}

func (d *configDecoder) number(path string, data json.RawMessage, v reflect.Value) {
	var n json.Number
	if bytes.HasPrefix(bytes.TrimSpace(data), []byte(`"`)) || !d.unmarshal(path, "a number", data, &n) {
		if len(d.faults) == 0 || d.faults[len(d.faults)-1].Field != path {
			d.fault(path, "must be a number, not %s", shorten(data))
		}
		return
	}
	text := n.String()
	var err error
	switch {
	case v.CanInt():
		var i int64
		if i, err = strconv.ParseInt(text, 10, v.Type().Bits()); err == nil {
			v.SetInt(i)
		}
	case v.CanUint():
		var u uint64
		if u, err = strconv.ParseUint(text, 10, v.Type().Bits()); err == nil {
			v.SetUint(u)
		}
	case v.CanFloat():
		var f float64
		if f, err = strconv.ParseFloat(text, v.Type().Bits()); err == nil && !math.IsInf(f, 0) {
			v.SetFloat(f)
		}
	default:
		panic(fmt.Sprintf("sdk: a config cannot have a field of type %s", v.Type()))
	}
	if err != nil {
		d.fault(path, "%s is not %s", text, numberWords(v.Type()))
	}
}

func numberWords(t reflect.Type) string {
	switch {
	case t.Kind() == reflect.Float32 || t.Kind() == reflect.Float64:
		return "a number that can be stored"
	case reflect.Zero(t).CanUint():
		return fmt.Sprintf("a whole number from 0 to %d", uint64(math.MaxUint64)>>(64-t.Bits()))
	}
	return fmt.Sprintf("a whole number of %d bits", t.Bits())
}

func (d *configDecoder) duration(path string, data json.RawMessage, v reflect.Value) {
	var text string
	if !d.unmarshal(path, `a duration like "10s"`, data, &text) {
		return
	}
	value, err := time.ParseDuration(text)
	if err != nil {
		d.fault(path, `must be a duration like "10s", not %s`, shorten(data))
		return
	}
	v.SetInt(int64(value))
}

// object decodes a struct: the fields that are there, then the defaults of the others.
func (d *configDecoder) object(path string, data json.RawMessage, v reflect.Value) {
	var object map[string]json.RawMessage
	if !d.unmarshal(path, "an object", data, &object) {
		return
	}
	fields := configFields(v.Type())
	for _, f := range fields {
		raw, given := object[f.name]
		delete(object, f.name)
		at := join(path, f.name)
		if given && isNull(raw) {
			given = false
		}
		switch target := v.FieldByIndex(f.index); {
		case given:
			d.decode(at, raw, target)
			d.checkEnum(at, f, target)
		case f.required:
			d.fault(at, "is required")
		case f.hasDefault:
			d.decode(at, f.defaultJSON(), target)
		case target.Kind() == reflect.Struct && !decodesItself(target.Type()):
			d.decode(at, json.RawMessage("{}"), target)
		}
	}
	unknown := make([]string, 0, len(object))
	for name := range object {
		unknown = append(unknown, name)
	}
	slices.Sort(unknown)
	for _, name := range unknown {
		d.fault(join(path, name), "unknown field%s", suggest(name, fields))
	}
}

func (d *configDecoder) checkEnum(path string, f configField, v reflect.Value) {
	if len(f.enum) > 0 && v.Kind() == reflect.String && !slices.Contains(f.enum, v.String()) {
		d.fault(path, "%q is not one of %s", v.String(), strings.Join(f.enum, ", "))
	}
}

func join(path, name string) string {
	if path == "" {
		return name
	}
	return path + "." + name
}

func shorten(data []byte) string {
	text := strings.ToValidUTF8(string(bytes.TrimSpace(data)), "\uFFFD")
	if runes := []rune(text); len(runes) > 40 {
		text = string(runes[:40]) + "..."
	}
	return text
}

func plainJSONError(err error) string { return strings.TrimPrefix(err.Error(), "json: ") }
