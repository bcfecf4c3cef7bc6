package file

import (
	"bytes"
	"errors"
	"io"
	"os"
)

const tailBlock = 64 << 10

// lastRecordEnd returns the offset behind the last whole record of a file. In CSV a line's end within quotes ends no record, so all of
// the file is read.
func lastRecordEnd(f *os.File, quotes bool) (int64, error) {
	if quotes {
		return lastUnquotedLine(f)
	}
	info, err := f.Stat()
	if err != nil {
		return 0, err
	}
	block := make([]byte, tailBlock)
	for end := info.Size(); end > 0; {
		start := max(end-tailBlock, 0)
		part := block[:end-start]
		if _, err := f.ReadAt(part, start); err != nil {
			return 0, err
		}
		if i := bytes.LastIndexByte(part, '\n'); i >= 0 {
			return start + int64(i) + 1, nil
		}
		end = start
	}
	return 0, nil
}

func lastUnquotedLine(f *os.File) (int64, error) {
	in := io.NewSectionReader(f, 0, 1<<62)
	block := make([]byte, tailBlock)
	var at, good int64
	quoted := false
	for {
		n, err := in.Read(block)
		for i, c := range block[:n] {
			switch {
			case c == '"':
				quoted = !quoted
			case c == '\n' && !quoted:
				good = at + int64(i) + 1
			}
		}
		at += int64(n)
		if errors.Is(err, io.EOF) {
			return good, nil
		}
		if err != nil {
			return 0, err
		}
	}
}
