//go:build !linux && !darwin

package raftstore

// volume does not know here.
func volume(string) (free, total uint64, known bool) { return 0, 0, false }
