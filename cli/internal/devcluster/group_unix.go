//go:build unix

package devcluster

import (
	"os/exec"
	"syscall"
)

// setGroup keeps Ctrl-C in the terminal from the routers: they go last, after the records in flight.
func setGroup(cmd *exec.Cmd) { cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} }
