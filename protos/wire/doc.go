// Package wire is the record codec and the buffer pool that the sidecar and the Go SDK share.
package wire
