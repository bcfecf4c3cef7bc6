//go:build !unix

package dlqtest

import "os"

// lockByte would take a lock that this system does not have.
func lockByte(*os.File, int64) bool { return true }
