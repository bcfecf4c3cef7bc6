// Command conveyor-sidecar runs beside services: it finds them, runs the stages that the routers assign to it, and moves the records.
package main

import (
	"context"
	"os"
)

func main() {
	os.Exit(run(context.Background(), os.Args[1:], os.Getenv, os.Stdout, os.Stderr, os.Exit))
}
