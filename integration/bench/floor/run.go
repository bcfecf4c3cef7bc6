package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
)

// config is what every process of one measurement knows; the flags are handed on from the parent.
type config struct {
	records   int    // how many the source sends
	size      int    // bytes of a record's value
	batch     int    // records of a batch
	window    int    // records the source sends ahead of the acknowledgements; at least 4 batches
	transform string // touch: pass on; bytes: drop a tenth by a byte test and append a field

	role       role
	network    string // of the listener: unix or tcp
	listen     string
	downstream string // address of the next process
	service    string // address of the transform service, of the sidecar that has one
}

// role says which part of the chain a process is.
type role string

const (
	roleChain     role = "chain" // the parent
	roleSource    role = "source"
	roleSidecar   role = "sidecar"
	roleTransform role = "transform"
	roleSink      role = "sink"
)

func (c *config) flags(output io.Writer) *flag.FlagSet {
	f := flag.NewFlagSet("floor", flag.ContinueOnError)
	f.SetOutput(output)
	f.IntVar(&c.records, "n", 1_000_000, "records to send")
	f.IntVar(&c.size, "size", 1000, "bytes of a record's value")
	f.IntVar(&c.batch, "batch", 256, "records in a batch")
	f.IntVar(&c.window, "window", 16384, "records sent ahead of the acknowledgements, at least 4 batches")
	f.StringVar(&c.transform, "xform", "bytes", "touch: pass records on; bytes: drop a tenth by a byte test and append a field to the rest")
	f.Func("role", "internal: which process of the chain this is", func(s string) error { c.role = role(s); return nil })
	f.StringVar(&c.network, "network", "", "internal")
	f.StringVar(&c.listen, "listen", "", "internal")
	f.StringVar(&c.downstream, "downstream", "", "internal")
	f.StringVar(&c.service, "service", "", "internal")
	return f
}

func (c *config) validate() error {
	switch {
	case c.records < 1 || c.size < 1 || c.batch < 1 || c.window < 1:
		return errors.New("-n, -size, -batch and -window must be above 0")
	case c.transform != "touch" && c.transform != "bytes":
		return fmt.Errorf("-xform %q: want touch or bytes", c.transform)
	}
	return nil
}

// run is the program; it returns the exit code.
func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	c := config{role: roleChain}
	flags := c.flags(stderr)
	if err := flags.Parse(args); err != nil {
		return 2
	}
	if err := c.validate(); err != nil {
		fmt.Fprintln(stderr, "floor:", err)
		return 2
	}
	var result any
	var err error
	if c.role == roleChain {
		result, err = measure(ctx, c, stderr)
	} else {
		result, err = work(ctx, c, stdout)
	}
	if err == nil {
		err = json.NewEncoder(stdout).Encode(result)
	}
	if err != nil {
		fmt.Fprintf(stderr, "floor: %s: %v\n", c.role, err)
		return 1
	}
	return 0
}

// work plays one part of the chain until its stream ends.
func work(ctx context.Context, c config, announce io.Writer) (usage, error) {
	switch c.role {
	case roleSource:
		return source(ctx, c)
	case roleSidecar:
		return serve(c, announce, sidecar)
	case roleTransform:
		return serve(c, announce, transformer)
	case roleSink:
		return serve(c, announce, sink)
	}
	return usage{}, errors.New("no such role")
}
