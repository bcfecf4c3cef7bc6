// Command conveyor-connect serves Conveyor's ready-made connectors on one port.
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"

	"github.com/conveyor-etl/conveyor/connectors/internal/command"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // a second signal ends the program at once
	os.Exit(command.Run(ctx, os.Args[1:], os.Getenv, os.Stdin, os.Stdout, os.Stderr))
}
