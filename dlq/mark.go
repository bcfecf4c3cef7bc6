package dlq

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/nats-io/nuid"
)

// keeper is where a mark is kept.
type keeper interface {
	// save gives the mark its version, and saves it.
	save(next *markState) error
	// superseded is closed when another store has saved; nil where there can be none.
	superseded() <-chan struct{}
	close() error
}

// Mark keeps the high-water mark of a store. Its methods are not called concurrently.
type Mark interface {
	// Load returns what was saved last; nil when nothing ever was.
	Load(ctx context.Context) ([]byte, error)
	// Save replaces what was saved, version by version, from 1 on. What it has returned nil for is on stable storage.
	//
	// It must refuse, with an error that wraps ErrSuperseded, when the version does not follow the one that is saved: somebody else has saved since the last Load or Save
	// of this store. The same version with the same bytes is no such case: it is saved already, and the answer is nil. By that a store finds out what became of a mark
	// after any other error, which may mean that it is saved, that it never will be, or that it will be later.
	Save(ctx context.Context, mark []byte, version uint64) error
}

// openMark opens the mark that the configuration names; found says that it has been written to.
func openMark(ctx context.Context, cfg *Config) (w *watermark, found bool, err error) {
	if cfg.Mark == nil {
		return openWatermark(cfg.Dir)
	}
	b, err := cfg.Mark.Load(ctx)
	if err != nil {
		return nil, false, fmt.Errorf("read the high-water mark: %w", err)
	}
	w = &watermark{}
	if b != nil {
		if err := json.Unmarshal(b, &w.state); err != nil {
			return nil, false, fmt.Errorf("read the high-water mark: %w", err)
		}
	}
	w.saved = w.state.Last
	w.state.Writer = nuid.Next()
	w.keeper = &elsewhere{mark: cfg.Mark, timeout: cfg.Timeout, version: w.state.Version, refused: make(chan struct{})}
	return w, b != nil, nil
}

// AdoptMark makes what a Mark has saved the mark of a store whose Config.Dir is dir, in place of the one that is there: the letters of a cluster go on at one server. No
// store must be open in dir. When it returns without an error the mark is on stable storage; otherwise the one before is there still.
func AdoptMark(dir string, mark []byte) error {
	var state markState
	if err := json.Unmarshal(mark, &state); err != nil {
		return fmt.Errorf("adopt the high-water mark: %w", err)
	}
	state.Version, state.Writer = max(state.Version, unwritten+1), ""
	if err := os.MkdirAll(dir, 0o750); err != nil {
		return fmt.Errorf("adopt the high-water mark: %w", err)
	}
	f, err := createWatermark(filepath.Join(dir, watermarkFile), &state)
	if err == nil {
		err = f.Close()
	}
	if err != nil {
		return fmt.Errorf("adopt the high-water mark: %w", err)
	}
	return nil
}

// elsewhere keeps a mark by a Mark of the caller's.
//
// It puts nothing else in the place of a mark whose outcome it does not know, but saves that one again, until it is told that it is saved, or that somebody else has
// saved. Two stores never try to save the same, for each has a name of its own in its marks. So what is saved in that place is this store's only if no other one has
// saved, and whatever arrives late finds its place taken, by itself or for good.
type elsewhere struct {
	mark    Mark
	timeout time.Duration
	// version is the last one known to be saved, and unanswered the mark that is to follow it; nil when there is none.
	version    uint64
	unanswered []byte
	refused    chan struct{} // closed once another store has saved
}

func (e *elsewhere) save(next *markState) error {
	select {
	case <-e.refused:
		return ErrSuperseded
	default:
	}
	if e.unanswered != nil {
		if err := e.try(); err != nil {
			return err
		}
	}
	next.Version = e.version + 1
	b, err := json.Marshal(next)
	if err != nil {
		return err
	}
	e.unanswered = b
	return e.try()
}

// try saves what is unanswered.
func (e *elsewhere) try() error {
	ctx, cancel := context.WithTimeout(context.Background(), e.timeout)
	defer cancel()
	err := e.mark.Save(ctx, e.unanswered, e.version+1)
	switch {
	case err == nil:
		e.version++
		e.unanswered = nil
	case errors.Is(err, ErrSuperseded):
		close(e.refused)
	}
	return err
}

func (e *elsewhere) superseded() <-chan struct{} { return e.refused }

func (e *elsewhere) close() error { return nil }
