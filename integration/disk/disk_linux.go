package disk

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"unsafe"
)

// Disk is a file system of its own. Its methods are for the goroutine of the test and fail the test when they cannot do what they say.
type Disk struct {
	t     testing.TB
	image string
	dir   string
}

// New makes a disk of so many bytes that ends with the test, or skips the test where it cannot: mounting takes root.
func New(t testing.TB, bytes int64) *Disk {
	t.Helper()
	base := t.TempDir()
	d := &Disk{t: t, image: filepath.Join(base, "disk"), dir: filepath.Join(base, "mnt")}
	d.must("make a directory", os.Mkdir(d.dir, 0o755))
	d.must("make the image", os.WriteFile(d.image, nil, 0o600))
	d.must("make the image", os.Truncate(d.image, bytes))
	d.run("mkfs.ext4", "-q", "-F", d.image)
	if out, err := exec.CommandContext(t.Context(), "mount", "--bind", base, base).CombinedOutput(); err != nil {
		t.Skipf("a file cannot be mounted as a disk, which takes root: %v %s", err, out)
	}
	t.Cleanup(func() { _ = syscall.Unmount(base, syscall.MNT_DETACH) })
	// Hosts have mounts of their own (see ip-netns), which would keep the disk as it was: what is shared is unmounted there too.
	d.run("mount", "--make-shared", base)
	d.run("mount", "-o", "loop", d.image, d.dir)
	t.Cleanup(func() { _ = syscall.Unmount(d.dir, syscall.MNT_DETACH) })
	return d
}

// Dir is where the disk is mounted.
func (d *Disk) Dir() string { return d.dir }

const (
	// ext4Shutdown ends all writing to the device at once; noLogFlush also forgets the journal in memory. See EXT4_IOC_SHUTDOWN in the kernel's fs/ext4/ext4.h.
	ext4Shutdown = 0x8004587d
	noLogFlush   = 2
)

// Cut takes the power away: what was not synced by now is gone, and nothing can be written.
func (d *Disk) Cut() {
	d.t.Helper()
	f, err := os.Open(d.dir)
	d.must("open the disk", err)
	defer func() { _ = f.Close() }()
	how := uint32(noLogFlush)
	if _, _, errno := syscall.Syscall(syscall.SYS_IOCTL, f.Fd(), ext4Shutdown, uintptr(unsafe.Pointer(&how))); errno != 0 {
		d.t.Fatalf("cut the power: %v", errno)
	}
}

// Restore gives the power back, after whoever used the disk has ended.
func (d *Disk) Restore() {
	d.t.Helper()
	d.run("umount", d.dir)
	d.run("mount", "-o", "loop", d.image, d.dir)
}

// ballast is the file that fills a disk.
const ballast = "ballast"

// Fill takes all room that is left.
func (d *Disk) Fill() {
	d.t.Helper()
	f, err := os.OpenFile(filepath.Join(d.dir, ballast), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	d.must("fill the disk", err)
	defer func() { _ = f.Close() }()
	// Blocks get smaller when no large one fits any more.
	for block := int64(1 << 20); block >= 4<<10; {
		info, err := f.Stat()
		d.must("fill the disk", err)
		err = syscall.Fallocate(int(f.Fd()), 0, info.Size(), block)
		switch {
		case err == nil || errors.Is(err, syscall.EINTR):
		case errors.Is(err, syscall.ENOSPC):
			block /= 4
		default:
			d.must("fill the disk", err)
		}
	}
}

// Free gives back what Fill took.
func (d *Disk) Free() {
	d.t.Helper()
	d.must("free the disk", os.Remove(filepath.Join(d.dir, ballast)))
}

func (d *Disk) run(name string, args ...string) {
	d.t.Helper()
	if out, err := exec.CommandContext(d.t.Context(), name, args...).CombinedOutput(); err != nil {
		d.t.Fatalf("%s: %v %s", name, err, out)
	}
}

func (d *Disk) must(what string, err error) {
	d.t.Helper()
	if err != nil {
		d.t.Fatalf("%s: %v", what, err)
	}
}
