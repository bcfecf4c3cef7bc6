//go:build linux || darwin

package raftstore

import "golang.org/x/sys/unix"

// volume is how many bytes are free for this process where dir lies, and how many there are.
func volume(dir string) (free, total uint64, known bool) {
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil || st.Bsize <= 0 {
		return 0, 0, false
	}
	size := uint64(st.Bsize)
	return st.Bavail * size, st.Blocks * size, true
}
