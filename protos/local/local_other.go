//go:build !linux

package local

import "io/fs"

func networkNamespace() (string, error) { return "", ErrUnsupported }

func owned(fs.FileInfo) bool { return false }
