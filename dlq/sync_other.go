//go:build !linux

package dlq

import "os"

// syncData waits until the file's content is on stable storage.
func syncData(f *os.File) error { return f.Sync() }
