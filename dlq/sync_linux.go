package dlq

import (
	"os"

	"golang.org/x/sys/unix"
)

// syncData waits until the file's content is on stable storage. Its size does not change, so nothing else has to be.
func syncData(f *os.File) error {
	for {
		if err := unix.Fdatasync(int(f.Fd())); err != unix.EINTR {
			return os.NewSyscallError("fdatasync", err)
		}
	}
}
