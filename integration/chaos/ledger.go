package chaos

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"sync"
)

// opened is the line with which each life of a ledger's writer begins. What stands before it may be torn.
const opened = "open"

// ledger is an append-only file of lines that outlives the process that writes it. Its methods may be called at once.
type ledger struct {
	mu   sync.Mutex
	file *os.File
}

func openLedger(path string) (*ledger, error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR|os.O_APPEND, 0o644)
	if err != nil {
		return nil, err
	}
	l := &ledger{file: f}
	start := ""
	if size, err := f.Seek(0, io.SeekEnd); err != nil {
		return nil, errors.Join(err, f.Close())
	} else if size > 0 {
		last := make([]byte, 1)
		if _, err := f.ReadAt(last, size-1); err != nil {
			return nil, errors.Join(err, f.Close())
		}
		if last[0] != '\n' {
			start = "\n"
		}
	}
	if err := l.write([]byte(start + opened + "\n")); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return l, nil
}

// write appends whole lines and makes them durable.
func (l *ledger) write(lines []byte) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if _, err := l.file.Write(lines); err != nil {
		return fmt.Errorf("write ledger: %w", err)
	}
	return l.file.Sync()
}

func (l *ledger) close() error { return l.file.Close() }

// ledgerSize is how much a ledger has; nothing when nobody has written to it yet.
func ledgerSize(path string) (int64, error) {
	info, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	return info.Size(), nil
}

// entry is one line of a ledger and where it ends.
type entry struct {
	text string
	end  int64
}

// readLedger returns the lines of a ledger without those that were torn by a kill, which stand right before the next life begins or at the
// end. valid says whether a line is whole.
func readLedger(content []byte, valid func(string) bool) ([]entry, error) {
	var out []entry
	var lines []entry
	at := int64(0)
	for raw := range bytes.Lines(content) {
		at += int64(len(raw))
		lines = append(lines, entry{string(bytes.TrimSuffix(raw, []byte("\n"))), at})
	}
	for i, l := range lines {
		switch {
		case l.text == opened:
		case valid(l.text):
			out = append(out, l)
		case i == len(lines)-1 || lines[i+1].text == opened: // torn
		default:
			return nil, fmt.Errorf("line %d of the ledger is damaged: %q", i+1, l.text)
		}
	}
	return out, nil
}
