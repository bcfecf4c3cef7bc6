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
	"github.com/conveyor-etl/conveyor/router"
)

// The exit codes. Those that conveyor ends with have the same meaning there, or none.
const (
	exitOK      = 0
	exitFailed  = 1
	exitInvalid = 2
	// exitDamaged: somebody must look before it is started again.
	exitDamaged = 5
	// exitDisk: it can be started again once the disk is well.
	exitDisk = 6
)

// run is the program without the process around it: SIGINT and SIGTERM drain, a second one calls exit.
func run(ctx context.Context, args []string, getenv func(string) string, stdout, stderr io.Writer, exit func(int)) int {
	cfg := router.DefaultConfig()
	in, err := env.Load(&cfg, env.Input{
		Program: "conveyor-router",
		Summary: "conveyor-router keeps the pipelines and decides which sidecar runs which stage.",
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
	s, err := router.New(cfg, log)
	if err == nil {
		log.Info("router starting", "version", version.String(), "address", s.Addr().String(), "ops", s.OpsAddr().String(), "data", cfg.DataDir)
		err = s.Run(ctx)
	}
	if files := (*certs.Error)(nil); errors.As(err, &files) {
		fmt.Fprintln(stderr, &env.Error{Faults: []string{files.Error()}})
		return exitInvalid
	}
	if err != nil {
		log.Error("router failed", "err", err)
		return exitOf(err)
	}
	log.Info("router stopped", "cause", context.Cause(ctx))
	return exitOK
}

func exitOf(err error) int {
	switch router.CodeOf(err) {
	case router.CodeDamaged, router.CodeDiverged:
		return exitDamaged
	case router.CodeDiskFailed, router.CodeDiskHangs:
		return exitDisk
	}
	return exitFailed
}

func printed(err error, stderr io.Writer) int {
	if err != nil {
		fmt.Fprintln(stderr, err)
		return exitFailed
	}
	return exitOK
}
