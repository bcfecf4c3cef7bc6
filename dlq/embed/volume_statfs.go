//go:build linux || darwin || freebsd

package embed

import (
	"math"

	"golang.org/x/sys/unix"
)

// volumeShare is the most that a default limit takes of the volume, in percent.
const volumeShare = 70

// defaultStore is the default limit, bounded by the size of the volume: not by its free space, which our own letters diminish.
func defaultStore(dir string) int64 {
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return DefaultMaxStoreBytes
	}
	size := float64(st.Blocks) * float64(st.Bsize)
	if size <= 0 {
		return DefaultMaxStoreBytes
	}
	return int64(math.Min(DefaultMaxStoreBytes, size*volumeShare/100))
}
