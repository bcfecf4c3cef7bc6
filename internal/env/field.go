package env

import (
	"encoding"
	"errors"
	"fmt"
	"reflect"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"
)

// mask stands for a secret value.
const mask = "***"

// field is one setting: a field of the struct with its tags.
type field struct {
	env, flag, def, desc string
	secret, required     bool
	v                    reflect.Value
	origin               string
}

type validator interface{ Validate() error }

var durationType = reflect.TypeFor[time.Duration]()

// inspect lists the settings of a struct in the order of its fields, sets them to their defaults, and
// finds the structs that validate themselves, outermost first. ptr points to the struct.
func inspect(ptr reflect.Value) (fields []*field, validators []validator, err error) {
	seen := map[string]bool{"config": true, "help": true, "version": true, "print-config": true}
	var walk func(ptr reflect.Value) error
	walk = func(ptr reflect.Value) error {
		if v, ok := ptr.Interface().(validator); ok {
			validators = append(validators, v)
		}
		s := ptr.Elem()
		for i := range s.NumField() {
			sf := s.Type().Field(i)
			if !sf.IsExported() {
				continue
			}
			name, ok := sf.Tag.Lookup("flag")
			if !ok {
				if sf.Type.Kind() == reflect.Struct {
					if err := walk(s.Field(i).Addr()); err != nil {
						return err
					}
				}
				continue
			}
			f := &field{
				flag: name, env: sf.Tag.Get("env"), def: sf.Tag.Get("default"), desc: sf.Tag.Get("desc"),
				secret: sf.Tag.Get("secret") == "true", required: sf.Tag.Get("required") == "true",
				v: s.Field(i),
			}
			if name == "" || seen[name] || f.env != "" && seen[f.env] {
				return fmt.Errorf("field %s: flag %q or variable %q is empty, reserved or used twice", sf.Name, name, f.env)
			}
			seen[name], seen[f.env] = true, true
			if err := f.reset(); err != nil {
				return fmt.Errorf("field %s: default %q: %w", sf.Name, f.def, err)
			}
			fields = append(fields, f)
		}
		return nil
	}
	return fields, validators, walk(ptr)
}

func (f *field) isBool() bool { return f.v.Kind() == reflect.Bool }

// reset sets the default.
func (f *field) reset() error {
	f.v.SetZero()
	if f.def == "" {
		return f.supported()
	}
	return f.set(f.def)
}

// supported reports a kind of field that set does not know.
func (f *field) supported() error {
	if _, ok := f.v.Addr().Interface().(encoding.TextUnmarshaler); ok {
		return nil
	}
	switch f.v.Kind() {
	case reflect.String, reflect.Bool, reflect.Float64,
		reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64,
		reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		return nil
	case reflect.Slice:
		if f.v.Type().Elem().Kind() == reflect.String {
			return nil
		}
	}
	return fmt.Errorf("type %s is not supported", f.v.Type())
}

// set parses text into the field. The errors do not repeat the text.
func (f *field) set(text string) error {
	if err := f.supported(); err != nil {
		return err
	}
	if !utf8.ValidString(text) {
		return errors.New("is not valid UTF-8")
	}
	if u, ok := f.v.Addr().Interface().(encoding.TextUnmarshaler); ok {
		return u.UnmarshalText([]byte(text))
	}
	if f.v.Type() == durationType {
		d, err := time.ParseDuration(text)
		if err != nil {
			return errors.New(`is not a duration like "10s" or "1h30m"`)
		}
		f.v.SetInt(int64(d))
		return nil
	}
	switch kind := f.v.Kind(); kind {
	case reflect.String:
		f.v.SetString(text)
	case reflect.Bool:
		b, err := strconv.ParseBool(text)
		if err != nil {
			return errors.New("is not true or false")
		}
		f.v.SetBool(b)
	case reflect.Float64:
		n, err := strconv.ParseFloat(text, 64)
		if err != nil {
			return errors.New("is not a number")
		}
		f.v.SetFloat(n)
	case reflect.Slice:
		list := reflect.MakeSlice(f.v.Type(), 0, 4)
		for _, part := range split(text) {
			list = reflect.Append(list, reflect.ValueOf(part).Convert(f.v.Type().Elem()))
		}
		f.v.Set(list)
	case reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		n, err := strconv.ParseUint(text, 10, f.v.Type().Bits())
		if err != nil {
			return notANumber(err, "is not a number of zero or more")
		}
		f.v.SetUint(n)
	default:
		n, err := strconv.ParseInt(text, 10, f.v.Type().Bits())
		if err != nil {
			return notANumber(err, "is not a whole number")
		}
		f.v.SetInt(n)
	}
	return nil
}

// text is the value in the form in which set takes it.
func (f *field) text() string {
	if m, ok := f.v.Addr().Interface().(encoding.TextMarshaler); ok {
		if b, err := m.MarshalText(); err == nil {
			return string(b)
		}
	}
	if f.v.Kind() == reflect.Slice {
		parts := make([]string, f.v.Len())
		for i := range parts {
			parts[i] = f.v.Index(i).String()
		}
		return strings.Join(parts, ",")
	}
	return fmt.Sprint(f.v.Interface())
}

func notANumber(err error, msg string) error {
	if errors.Is(err, strconv.ErrRange) {
		return errors.New("is out of range")
	}
	return errors.New(msg)
}

// split cuts a list at its commas; spaces around the parts do not count, an empty text is an empty list.
func split(text string) []string {
	if strings.TrimSpace(text) == "" {
		return nil
	}
	parts := strings.Split(text, ",")
	for i := range parts {
		parts[i] = strings.TrimSpace(parts[i])
	}
	return parts
}
