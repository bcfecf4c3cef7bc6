// Package env reads the configuration of a binary into a struct from flags, environment variables, a
// YAML file and defaults, reports all faults at once, and shows where each value came from.
//
// The fields say how they are set:
//
//	type Config struct {
//		GRPCPort env.Port      `env:"GRPC_PORT" flag:"grpc-port" default:"50051" desc:"port of the gRPC server"`
//		Token    string        `env:"TOKEN" flag:"token" secret:"true" desc:"shown as ***"`
//		TLS      certs.Files   // fields of nested structs belong to the same flat list
//	}
//
// A flag wins over the environment, that over the file (its keys are the names of the flags), and
// that over the default. An empty environment variable counts as not set. Fields may be strings,
// booleans, integers, floats, time.Duration, []string (commas between), the types of this package,
// and anything that implements encoding.TextUnmarshaler. Fields without a flag tag are left alone.
package env

import (
	"fmt"
	"reflect"
	"slices"
	"strings"
)

// Input is where configuration comes from.
type Input struct {
	Program string // name of the binary, for the help text
	Summary string // one sentence about it, for the help text
	Args    []string
	Getenv  func(string) string               // nil: no environment
	File    func(path string) ([]byte, error) // reads the file of --config; nil: the flag is refused
}

// A Result tells what was read. Ask Help, Version and PrintConfig, in this order, what the user wants
// instead of a start.
type Result struct {
	Help        bool // --help or -h was given; nothing else was looked at
	Version     bool // --version was given; nothing else was looked at
	PrintConfig bool // --print-config was given

	program, summary string
	fields           []*field
}

// An Error lists all faults of a configuration.
type Error struct{ Faults []string }

// Error has one line per fault, each of which names the flag, variable or place in the file.
func (e *Error) Error() string {
	if len(e.Faults) == 1 {
		return "configuration: " + e.Faults[0]
	}
	return fmt.Sprintf("configuration has %d faults:\n  %s", len(e.Faults), strings.Join(e.Faults, "\n  "))
}

func (e *Error) add(format string, args ...any) {
	e.Faults = append(e.Faults, fmt.Sprintf(format, args...))
}

// Load fills *cfg, which must be a struct. Faults of the input are an [*Error]; the fields they
// concern keep their defaults. cfg and its nested structs may have a method Validate() error: it is
// called afterwards, and its faults (joined with errors.Join) are added to the list. Other errors
// mean that the struct itself is wrong.
func Load(cfg any, in Input) (*Result, error) {
	ptr := reflect.ValueOf(cfg)
	if ptr.Kind() != reflect.Pointer || ptr.Elem().Kind() != reflect.Struct {
		return nil, fmt.Errorf("load configuration: %T is not a pointer to a struct", cfg)
	}
	fields, validators, err := inspect(ptr)
	if err != nil {
		return nil, fmt.Errorf("load configuration into %T: %w", cfg, err)
	}
	res := &Result{program: in.Program, summary: in.Summary, fields: fields}
	faults := &Error{}
	flags := parseArgs(in.Args, fields, faults)
	if res.Help, res.Version = flags.help, flags.version; res.Help || res.Version {
		return res, nil
	}
	res.PrintConfig = flags.printConfig
	file := map[string]fileValue{}
	if flags.config != "" {
		file = readFile(flags.config, in.File, fields, faults)
	}
	for _, f := range fields {
		f.resolve(flags.values, in.Getenv, file, faults)
	}
	for _, v := range validators {
		faults.Faults = append(faults.Faults, flatten(v.Validate())...)
	}
	if len(faults.Faults) > 0 {
		return res, faults
	}
	return res, nil
}

// resolve sets the field from the first place that has a value for it.
func (f *field) resolve(flags map[string]string, getenv func(string) string, file map[string]fileValue, faults *Error) {
	var name, text string
	if v, ok := flags[f.flag]; ok {
		name, text, f.origin = "--"+f.flag, v, "flag --"+f.flag
	} else if v := lookup(getenv, f.env); v != "" {
		name, text, f.origin = f.env, v, "env "+f.env
	} else if v, ok := file[f.flag]; ok {
		name, text, f.origin = v.place+": "+f.flag, v.text, "file "+v.place
	} else {
		f.origin = "default"
		if f.required {
			faults.add("%s: not set: give %s", f.flag, f.settings())
		}
		return
	}
	if err := f.set(text); err != nil {
		shown := fmt.Sprintf("%q", text)
		if f.secret {
			shown = mask
		}
		faults.add("%s: %s: %v", name, shown, err)
		_ = f.reset() // its default was set once already
	}
}

func lookup(getenv func(string) string, name string) string {
	if getenv == nil || name == "" {
		return ""
	}
	return getenv(name)
}

// settings names the ways to set the field.
func (f *field) settings() string {
	if f.env == "" {
		return "--" + f.flag
	}
	return f.env + " or --" + f.flag
}

// arguments is what the command line holds.
type arguments struct {
	values                     map[string]string
	config                     string
	help, version, printConfig bool
}

// parseArgs reads flags as --name value, --name=value, and --name for booleans. It goes on after a
// fault, so that the user sees all of them.
func parseArgs(args []string, fields []*field, faults *Error) arguments {
	out := arguments{values: map[string]string{}}
	names := []string{"config", "help", "version", "print-config"}
	for _, f := range fields {
		names = append(names, f.flag)
	}
	for i := 0; i < len(args); i++ {
		arg := args[i]
		if arg == "-h" {
			out.help = true
			continue
		}
		body, ok := strings.CutPrefix(arg, "--")
		if !ok || body == "" {
			faults.add("%s: unexpected argument: settings are given as --name=value", arg)
			continue
		}
		name, value, given := strings.Cut(body, "=")
		if !slices.Contains(names, name) {
			faults.add("--%s: unknown flag%s", name, suggest("--", name, names))
			if !given && i+1 < len(args) && !strings.HasPrefix(args[i+1], "-") {
				i++ // most likely its value
			}
			continue
		}
		at := slices.IndexFunc(fields, func(f *field) bool { return f.flag == name })
		if !given && (at < 0 && name != "config" || at >= 0 && fields[at].isBool()) {
			value, given = "true", true
		}
		if !given {
			if i+1 == len(args) {
				faults.add("--%s: needs a value", name)
				continue
			}
			i++
			value = args[i]
		}
		switch {
		case at >= 0:
			out.values[name] = value
		case name == "config":
			if value == "" {
				faults.add("--config: needs a file name")
			}
			out.config = value
		case value != "true":
			faults.add("--%s: takes no value", name)
		default:
			out.help = out.help || name == "help"
			out.version = out.version || name == "version"
			out.printConfig = out.printConfig || name == "print-config"
		}
	}
	return out
}

// flatten returns the messages of errors that errors.Join put together.
func flatten(err error) []string {
	if err == nil {
		return nil
	}
	joined, ok := err.(interface{ Unwrap() []error })
	if !ok {
		return []string{err.Error()}
	}
	var parts []string
	for _, e := range joined.Unwrap() {
		parts = append(parts, e.Error())
	}
	if strings.Join(parts, "\n") != err.Error() { // wrapped with words of its own
		return []string{err.Error()}
	}
	var out []string
	for _, e := range joined.Unwrap() {
		out = append(out, flatten(e)...)
	}
	return out
}

// suggest returns " (did you mean ...?)" for the name that is most like the given one, if any is.
func suggest(prefix, name string, names []string) string {
	best, distance := "", max(1, len(name)/3)+1
	for _, n := range names {
		if d := editDistance(name, n); d < distance {
			best, distance = n, d
		}
	}
	if best == "" {
		return ""
	}
	return fmt.Sprintf(" (did you mean %s%s?)", prefix, best)
}

// editDistance counts the insertions, deletions and replacements between two short names.
func editDistance(a, b string) int {
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
				cost = 1 + min(diagonal, row[j], row[j+1])
			}
			diagonal, row[j+1] = row[j+1], cost
		}
	}
	return row[len(b)]
}
