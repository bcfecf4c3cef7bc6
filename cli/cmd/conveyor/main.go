// Command conveyor is the command line of Conveyor.
package main

import (
	"os"

	"github.com/conveyor-etl/conveyor/cli"
)

func main() { os.Exit(cli.Main(os.Exit)) }
