//go:build linux || darwin || freebsd

package embed

import (
	"errors"
	"math"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// volumeShare is the most that a default limit takes of the volume, in percent.
const volumeShare = 70

// DefaultStoreBytes is the default of Config.MaxStoreBytes for a directory, which may not have been made yet. The size of the volume bounds it, and not its free space, which the
// streams themselves diminish. A directory that cannot be looked at counts as on a large volume.
func DefaultStoreBytes(dir string) int64 {
	var st unix.Statfs_t
	err := unix.Statfs(dir, &st)
	for errors.Is(err, unix.ENOENT) && dir != filepath.Dir(dir) {
		dir = filepath.Dir(dir)
		err = unix.Statfs(dir, &st)
	}
	if err != nil {
		return DefaultMaxStoreBytes
	}
	size := float64(st.Blocks) * float64(st.Bsize)
	if size <= 0 {
		return DefaultMaxStoreBytes
	}
	return int64(math.Min(DefaultMaxStoreBytes, size*volumeShare/100))
}
