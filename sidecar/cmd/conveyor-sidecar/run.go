package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/conveyor-etl/conveyor/internal/certs"
	"github.com/conveyor-etl/conveyor/internal/env"
	"github.com/conveyor-etl/conveyor/internal/lifecycle"
	"github.com/conveyor-etl/conveyor/internal/logging"
	"github.com/conveyor-etl/conveyor/internal/version"
	"github.com/conveyor-etl/conveyor/sidecar"
)

// The exit codes.
const (
	exitOK      = 0
	exitFailed  = 1
	exitInvalid = 2
)

// run is the program without the process around it: SIGINT and SIGTERM drain, a second one calls exit.
func run(ctx context.Context, args []string, getenv func(string) string, stdout, stderr io.Writer, exit func(int)) int {
	cfg := sidecar.DefaultConfig()
	in, err := env.Load(&cfg, env.Input{
		Program: "conveyor-sidecar",
		Summary: "conveyor-sidecar runs stages of pipelines beside the services that they use.",
		Args:    args,
		Getenv:  getenv,
		File:    os.ReadFile,
	})
	switch {
	case err != nil:
		fmt.Fprintln(stderr, err)
		if faults := (*env.Error)(nil); errors.As(err, &faults) {
			return exitInvalid
		}
		return exitFailed
	case in.Help:
		return printed(in.WriteHelp(stdout), stderr)
	case in.Version:
		_, err := fmt.Fprintln(stdout, version.String())
		return printed(err, stderr)
	case in.PrintConfig:
		return printed(in.WriteConfig(stdout), stderr)
	}
	log, err := logging.New(stderr, cfg.LogLevel, "auto")
	if err != nil {
		fmt.Fprintln(stderr, err)
		return exitInvalid
	}
	ctx, stop := lifecycle.Signals(ctx, exit)
	defer stop()
	s, err := sidecar.New(cfg, log)
	if err == nil {
		log.Info("sidecar starting", "version", version.String(), "address", s.Addr(), "ops", s.OpsAddr(), "routers", cfg.Routers.Strings())
		err = s.Run(ctx)
	}
	if files := (*certs.Error)(nil); errors.As(err, &files) {
		fmt.Fprintln(stderr, &env.Error{Faults: []string{files.Error()}})
		return exitInvalid
	}
	if err != nil {
		log.Error("sidecar failed", "err", err)
		return exitFailed
	}
	log.Info("sidecar stopped", "cause", context.Cause(ctx))
	return exitOK
}

func printed(err error, stderr io.Writer) int {
	if err != nil {
		fmt.Fprintln(stderr, err)
		return exitFailed
	}
	return exitOK
}
