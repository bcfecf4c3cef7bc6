// Command conveyor-router is the control plane: it keeps the pipelines and decides which sidecar runs which stage.
package main

import (
	"context"
	"os"
)

func main() {
	os.Exit(run(context.Background(), os.Args[1:], os.Getenv, os.Stdout, os.Stderr, os.Exit))
}
